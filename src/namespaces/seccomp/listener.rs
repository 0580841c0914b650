//! Answers to system calls, given by the host.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::{Arch, syscalls};
use crate::error::{Context, Result};
use crate::sys::seccomp as sys;

/// Where the kernel asks what to answer to the system calls of a process whose filter says
/// [`Notify`](super::Action::Notify) (Linux 5.0), see seccomp_unotify(2).
///
/// The process, and those it starts, wait at the call until somebody answers. The fd of [`AsFd`] is readable when one
/// waits, so an event loop can serve it.
///
/// ```no_run
/// use coracle::namespaces::seccomp::{Action, Response, Seccomp};
/// use coracle::namespaces::Command;
/// let filter = Seccomp::default_profile().rule("mknodat", Action::Notify, &[]);
/// let mut child = Command::new("mknod").args(["/tmp/x", "p"]).isolated().seccomp(filter).spawn()?;
/// let listener = child.seccomp_listener.take().expect("the filter notifies");
/// while let Some(call) = listener.receive()? {
///     println!("process {} makes {:?}", call.pid, call.name());
///     listener.respond(&call, Response::Errno(libc::EPERM))?;
/// }
/// # Ok::<(), coracle::Error>(())
/// ```
///
/// A host without CAP_SYS_PTRACE is sent it by the process where that comes into an existing pid namespace, as with
/// [`Child::exec`](crate::namespaces::Child::exec): the filter must then let `sendmsg` pass.
///
/// # Security
///
/// [`Response::Continue`] is no way to enforce a policy that depends on memory of the process, such as a path: another
/// of its threads can change that between the look and the call.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// A system call that waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Notification {
    id: u64,
    arch: u32,
    /// The thread that makes the call, in the host's numbers; 0 if it is not visible there.
    pub pid: u32,
    /// The number of the call.
    pub number: u32,
    /// Its arguments.
    pub args: [u64; 6],
    /// Where in the program it is made.
    pub instruction_pointer: u64,
}

/// What a system call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Response {
    /// This value, without the call being made.
    Value(i64),
    /// It fails with this error number.
    Errno(i32),
    /// It is made after all (Linux 5.5).
    Continue,
}

impl Notification {
    /// The name of the call, if this crate knows it.
    pub fn name(&self) -> Option<&'static str> {
        let arch = [Arch::X86_64, Arch::X86, Arch::Aarch64];
        let arch = arch.into_iter().find(|arch| arch.audit() == self.arch)?;
        syscalls::names().find(|name| arch.number(name) == Some(self.number))
    }
}

impl Listener {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Waits for the next call. `None`: no process is left under the filter (Linux 5.8; before, this waits on). Before
    /// Linux 6.11 one that has ended counts until somebody has waited for it.
    ///
    /// # Errors
    ///
    /// None in ordinary use.
    pub fn receive(&self) -> Result<Option<Notification>> {
        let attempt = || "receive a seccomp notification";
        loop {
            let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match nix::poll::poll(&mut polled, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                other => other.context(attempt)?,
            };
            let happened = polled[0].revents().unwrap_or(PollFlags::empty());
            if !happened.contains(PollFlags::POLLIN) {
                return Ok(None);
            }
            match sys::receive(self.0.as_fd()) {
                // The caller was killed, or another thread was faster.
                Err(err) if matches!(err.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => {}
                other => {
                    let notif = other.context(attempt)?;
                    return Ok(Some(Notification {
                        id: notif.id,
                        arch: notif.arch,
                        pid: notif.pid,
                        number: notif.number.cast_unsigned(),
                        args: notif.args,
                        instruction_pointer: notif.instruction_pointer,
                    }));
                }
            }
        }
    }

    /// Whether the call still waits. Ask *after* opening `/proc/PID/...` of the caller and before trusting it: the
    /// number may have gone to another process.
    ///
    /// # Errors
    ///
    /// None in ordinary use.
    pub fn is_waiting(&self, call: &Notification) -> Result<bool> {
        gone_is_false(sys::is_valid(self.0.as_fd(), call.id), "ask for a seccomp notification")
    }

    /// Answers the call. False: it waits no more, since it was answered, or its process killed or
    /// interrupted.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for an answer that the kernel does not take, such as [`Response::Continue`] before Linux 5.5.
    pub fn respond(&self, call: &Notification, response: Response) -> Result<bool> {
        const FLAG_CONTINUE: u32 = 1;
        let (value, error, flags) = match response {
            Response::Value(value) => (value, 0, 0),
            Response::Errno(errno) => (0, errno.saturating_neg(), 0),
            Response::Continue => (0, 0, FLAG_CONTINUE),
        };
        let response = sys::Response { id: call.id, value, error, flags };
        gone_is_false(sys::send(self.0.as_fd(), &response), "answer a seccomp notification")
    }

    /// Gives the process that waits an open file, and returns the number it has there (Linux 5.9); mostly the
    /// [`Value`](Response::Value) of the answer.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) if the call waits no more.
    pub fn add_fd(&self, call: &Notification, fd: impl AsFd, close_on_exec: bool) -> Result<i32> {
        sys::add_fd(self.0.as_fd(), call.id, fd.as_fd(), close_on_exec)
            .context(|| "open a file in a process that waits for a seccomp answer")
    }
}

fn gone_is_false(result: std::io::Result<()>, attempt: &'static str) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        // The second: it was answered, and its thread has not run since.
        Err(err) if matches!(err.raw_os_error(), Some(libc::ENOENT | libc::EINPROGRESS)) => {
            Ok(false)
        }
        Err(err) => Err(err).context(|| attempt),
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Listener> for OwnedFd {
    fn from(listener: Listener) -> Self {
        listener.0
    }
}
