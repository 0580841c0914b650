//! Signals by number and name.

use std::fmt;
use std::str::FromStr;

use super::nearest::nearest;
use crate::error::{Error, Result};

/// A signal, see `signal(7)`.
///
/// Parses from `TERM`, `SIGTERM` (any case), `15`, `RTMIN`, `RTMIN+3` or `RTMAX-1`. Real-time signals count from 34, as
/// programs that use glibc see them: the two before are used by C libraries themselves.
///
/// ```
/// use coracle::namespaces::Signal;
///
/// assert_eq!("term".parse::<Signal>()?, Signal::TERM);
/// assert_eq!("RTMIN+3".parse::<Signal>()?.number(), 37);
/// assert_eq!(Signal::KILL.to_string(), "SIGKILL");
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(u8);

/// The first real-time signal that is a program's own.
const RTMIN: u8 = 34;
/// The kernel's last signal.
const RTMAX: u8 = 64;

macro_rules! signals {
    ($($(#[$doc:meta])* $name:ident = $number:ident;)*) => {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // from 1 to 31
        impl Signal {
            $($(#[$doc])* pub const $name: Self = Self(libc::$number as u8);)*
        }

        const NAMES: &[(&str, Signal)] = &[$((stringify!($name), Signal::$name),)*];
    };
}

signals! {
    /// The terminal is gone; daemons read their configuration again.
    HUP = SIGHUP;
    /// Interrupted from the keyboard.
    INT = SIGINT;
    /// Quit from the keyboard, with a core dump.
    QUIT = SIGQUIT;
    /// Illegal instruction.
    ILL = SIGILL;
    /// Breakpoint.
    TRAP = SIGTRAP;
    /// `abort`.
    ABRT = SIGABRT;
    /// Memory access error.
    BUS = SIGBUS;
    /// Arithmetic error.
    FPE = SIGFPE;
    /// Ends the process; cannot be caught.
    KILL = SIGKILL;
    /// The program's own, the first.
    USR1 = SIGUSR1;
    /// Invalid memory reference.
    SEGV = SIGSEGV;
    /// The program's own, the second.
    USR2 = SIGUSR2;
    /// Write to a pipe without readers.
    PIPE = SIGPIPE;
    /// The timer of `alarm`.
    ALRM = SIGALRM;
    /// Asks the process to end.
    TERM = SIGTERM;
    /// Stack fault of a coprocessor; unused.
    STKFLT = SIGSTKFLT;
    /// A child stopped or ended.
    CHLD = SIGCHLD;
    /// Continue if stopped.
    CONT = SIGCONT;
    /// Stops the process; cannot be caught.
    STOP = SIGSTOP;
    /// Stopped from the keyboard.
    TSTP = SIGTSTP;
    /// Read from the terminal in the background.
    TTIN = SIGTTIN;
    /// Write to the terminal in the background.
    TTOU = SIGTTOU;
    /// Urgent data on a socket.
    URG = SIGURG;
    /// CPU time limit exceeded.
    XCPU = SIGXCPU;
    /// File size limit exceeded.
    XFSZ = SIGXFSZ;
    /// Virtual timer.
    VTALRM = SIGVTALRM;
    /// Profiling timer.
    PROF = SIGPROF;
    /// The terminal changed its size.
    WINCH = SIGWINCH;
    /// Input or output is possible.
    IO = SIGIO;
    /// Power failure.
    PWR = SIGPWR;
    /// Bad system call, also from a seccomp filter.
    SYS = SIGSYS;
}

/// Other names of the same signals.
const ALIASES: &[(&str, Signal)] =
    &[("IOT", Signal::ABRT), ("CLD", Signal::CHLD), ("POLL", Signal::IO)];

impl Signal {
    /// The signal with this number, 1 to 64.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for any other number.
    pub fn from_number(number: i32) -> Result<Self> {
        u8::try_from(number)
            .ok()
            .filter(|n| (1..=RTMAX).contains(n))
            .map(Self)
            .ok_or_else(|| Error::invalid(format!("signal {number}, there are 1 to {RTMAX}")))
    }

    /// The kernel's number.
    pub const fn number(self) -> i32 {
        self.0 as i32
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = NAMES.iter().find(|(_, signal)| signal == self) {
            return write!(f, "SIG{name}");
        }
        match self.0 {
            RTMIN => f.write_str("SIGRTMIN"),
            RTMAX => f.write_str("SIGRTMAX"),
            n if n > RTMIN => write!(f, "SIGRTMIN+{}", n - RTMIN),
            n => write!(f, "signal {n}"),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Signal {
    type Err = Error;

    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if there is no such signal.
    fn from_str(s: &str) -> Result<Self> {
        let upper = s.to_ascii_uppercase();
        let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
        let by_name = NAMES.iter().chain(ALIASES).find(|(name, _)| *name == bare);
        let found = by_name.map(|(_, signal)| *signal).or_else(|| {
            let number = if let Some(rest) = bare.strip_prefix("RTMIN") {
                RTMIN.checked_add(offset(rest, '+')?)?
            } else if let Some(rest) = bare.strip_prefix("RTMAX") {
                RTMAX.checked_sub(offset(rest, '-')?).filter(|n| *n >= RTMIN)?
            } else {
                decimal(&upper)?
            };
            (1..=RTMAX).contains(&number).then_some(Self(number))
        });
        found.ok_or_else(|| {
            let err = Error::invalid(format!("unknown signal {s:?}"));
            match nearest(bare, NAMES.iter().map(|(name, _)| *name)) {
                Some(name) => err.with_hint(format!("did you mean SIG{name}?")),
                None => err.with_hint("signal(7) lists the names; numbers go from 1 to 64"),
            }
        })
    }
}

/// Nothing, or a number behind `sign`.
fn offset(text: &str, sign: char) -> Option<u8> {
    if text.is_empty() { Some(0) } else { decimal(text.strip_prefix(sign)?) }
}

/// A number without sign or spaces.
fn decimal(digits: &str) -> Option<u8> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn parses_names_numbers_and_real_time_offsets() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigterm", 15),
            ("15", 15),
            ("Kill", 9),
            ("SIGIOT", 6),
            ("CLD", 17),
            ("POLL", 29),
            ("1", 1),
            ("64", 64),
            ("32", 32),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("rtmin+30", 64),
            ("RTMAX", 64),
            ("SIGRTMAX-1", 63),
            ("RTMAX-30", 34),
        ] {
            assert_eq!(text.parse::<Signal>().unwrap().number(), number, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_signal() {
        for text in [
            "",
            "0",
            "65",
            "-9",
            "+9",
            " 9",
            "SIG",
            "SIG9",
            "RTMIN+31",
            "RTMIN-1",
            "RTMIN3",
            "RTMIN+",
            "RTMAX-31",
            "RTMAX+1",
            "RTMIN+-1",
            "RTMAX-",
            "TERMINATE",
            "256",
            "\u{661}\u{665}",
            "RTMIN\u{e9}3",
        ] {
            let err = text.parse::<Signal>().unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidInput, "{text}");
            assert!(err.to_string().contains(&format!("{text:?}")), "{err}");
        }
        assert_eq!("SIGTRM".parse::<Signal>().unwrap_err().hint(), Some("did you mean SIGTERM?"));
        for number in [0, -1, 65, 256 + 9, i32::MIN] {
            assert!(Signal::from_number(number).is_err(), "{number}");
        }
    }

    #[test]
    fn every_number_prints_as_what_parses_to_it() {
        assert_eq!(Signal::SYS.number(), 31);
        for number in 1..=64 {
            let signal = Signal::from_number(number).unwrap();
            assert_eq!(signal.number(), number);
            if !(32..34).contains(&number) {
                assert_eq!(signal.to_string().parse::<Signal>().unwrap(), signal);
            }
        }
        assert_eq!(Signal(33).to_string(), "signal 33");
        assert_eq!(format!("{:?}", Signal(40)), "SIGRTMIN+6");
    }
}
