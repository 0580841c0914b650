//! Resource limits of a process.

use std::fmt;
use std::str::FromStr;

use super::nearest::nearest;
use crate::error::{Error, Result};

macro_rules! resources {
    ($($(#[$doc:meta])* $name:ident = $number:ident, $text:literal;)*) => {
        /// What a resource limit is about, see `getrlimit(2)`.
        ///
        /// Parses from its name in any case, with or without `RLIMIT_`.
        ///
        /// ```
        /// use coracle::namespaces::Resource;
        ///
        /// assert_eq!("nofile".parse::<Resource>()?, Resource::Nofile);
        /// assert_eq!(Resource::Nofile.to_string(), "RLIMIT_NOFILE");
        /// # Ok::<(), coracle::Error>(())
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Resource {
            $($(#[$doc])* $name,)*
        }

        impl Resource {
            /// All of them, in the manual page's order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name as the manual page writes it, such as `RLIMIT_NOFILE`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// The kernel's number.
            pub(crate) const fn raw(self) -> u32 {
                match self {
                    // The C libraries differ in the type of these small numbers.
                    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)]
                    $(Self::$name => libc::$number as u32,)*
                }
            }
        }
    };
}

resources! {
    /// Address space, in bytes.
    As = RLIMIT_AS, "RLIMIT_AS";
    /// Core dumps, in bytes; 0 for none.
    Core = RLIMIT_CORE, "RLIMIT_CORE";
    /// CPU time, in seconds.
    Cpu = RLIMIT_CPU, "RLIMIT_CPU";
    /// Data segment, in bytes.
    Data = RLIMIT_DATA, "RLIMIT_DATA";
    /// Size of files written, in bytes.
    Fsize = RLIMIT_FSIZE, "RLIMIT_FSIZE";
    /// File locks; without effect since Linux 2.4.
    Locks = RLIMIT_LOCKS, "RLIMIT_LOCKS";
    /// Locked memory, in bytes.
    Memlock = RLIMIT_MEMLOCK, "RLIMIT_MEMLOCK";
    /// POSIX message queues of the user, in bytes.
    Msgqueue = RLIMIT_MSGQUEUE, "RLIMIT_MSGQUEUE";
    /// How far the nice value can be lowered: to 20 less the limit.
    Nice = RLIMIT_NICE, "RLIMIT_NICE";
    /// One above the highest file descriptor.
    Nofile = RLIMIT_NOFILE, "RLIMIT_NOFILE";
    /// Processes and threads of the user.
    Nproc = RLIMIT_NPROC, "RLIMIT_NPROC";
    /// Resident memory, in bytes; without effect since Linux 2.6.
    Rss = RLIMIT_RSS, "RLIMIT_RSS";
    /// Highest real-time priority that can be set.
    Rtprio = RLIMIT_RTPRIO, "RLIMIT_RTPRIO";
    /// CPU time of a real-time process between two blocking system calls, in microseconds.
    Rttime = RLIMIT_RTTIME, "RLIMIT_RTTIME";
    /// Queued signals of the user.
    Sigpending = RLIMIT_SIGPENDING, "RLIMIT_SIGPENDING";
    /// Stack of the main thread, in bytes.
    Stack = RLIMIT_STACK, "RLIMIT_STACK";
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Resource {
    type Err = Error;

    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if there is no resource of that name.
    fn from_str(s: &str) -> Result<Self> {
        const PREFIX: &str = "RLIMIT_";
        let upper = s.to_ascii_uppercase();
        let bare = upper.strip_prefix(PREFIX).unwrap_or(&upper);
        let found = Self::ALL.iter().find(|resource| resource.name()[PREFIX.len()..] == *bare);
        found.copied().ok_or_else(|| {
            let err = Error::invalid(format!("unknown resource limit {s:?}"));
            match nearest(bare, Self::ALL.iter().map(|r| &r.name()[PREFIX.len()..])) {
                Some(name) => err.with_hint(format!("did you mean {}?", name.to_lowercase())),
                None => err.with_hint("getrlimit(2) lists the names"),
            }
        })
    }
}

/// A soft and a hard limit.
///
/// Parses from `soft:hard`, or one number for both; `unlimited` stands for [`INFINITY`](Self::INFINITY).
///
/// ```
/// use coracle::namespaces::Rlimit;
///
/// assert_eq!("1024:unlimited".parse::<Rlimit>()?, Rlimit::new(1024, Rlimit::INFINITY));
/// assert_eq!(Rlimit::both(64).to_string(), "64:64");
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rlimit {
    /// What is in force. The process can change it, up to the hard limit.
    pub soft: u64,
    /// The ceiling of the soft limit. The process can only lower it.
    pub hard: u64,
}

impl Rlimit {
    /// No limit.
    pub const INFINITY: u64 = u64::MAX;

    /// A soft and a hard limit.
    pub const fn new(soft: u64, hard: u64) -> Self {
        Self { soft, hard }
    }

    /// The same limit for both.
    pub const fn both(limit: u64) -> Self {
        Self::new(limit, limit)
    }

    /// # Errors
    ///
    /// `InvalidInput` if the soft limit is above the hard one, which the kernel refuses.
    pub(crate) fn validate(self, resource: Resource) -> Result<()> {
        if self.soft > self.hard {
            return Err(Error::invalid(format!(
                "{resource} with a soft limit above the hard limit, {self}"
            )));
        }
        Ok(())
    }
}

impl fmt::Display for Rlimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let write = |f: &mut fmt::Formatter<'_>, limit: u64| match limit {
            Self::INFINITY => f.write_str("unlimited"),
            limit => write!(f, "{limit}"),
        };
        write(f, self.soft)?;
        f.write_str(":")?;
        write(f, self.hard)
    }
}

impl FromStr for Rlimit {
    type Err = Error;

    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for what is not a number, and for a soft limit above the
    /// hard one.
    fn from_str(s: &str) -> Result<Self> {
        let parse = |part: &str| match part {
            "unlimited" | "-1" => Some(Self::INFINITY),
            _ if part.bytes().all(|b| b.is_ascii_digit()) => part.parse().ok(),
            _ => None,
        };
        let (soft, hard) = s.split_once(':').unwrap_or((s, s));
        match (parse(soft), parse(hard)) {
            (Some(soft), Some(hard)) if soft <= hard => Ok(Self::new(soft, hard)),
            (Some(_), Some(_)) => {
                Err(Error::invalid(format!("soft limit above the hard limit in {s:?}")))
            }
            _ => Err(Error::invalid(format!("resource limit {s:?} is not a number"))
                .with_hint("write a limit as 1024, 1024:4096 or unlimited")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn there_are_sixteen_with_the_kernels_numbers() {
        let mut numbers: Vec<u32> = Resource::ALL.iter().map(|r| r.raw()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..16).collect::<Vec<_>>());
        assert_eq!(Resource::Nofile.raw(), 7);
        assert_eq!(Resource::Rttime.raw(), 15);
    }

    #[test]
    fn parses_names() {
        for resource in Resource::ALL {
            assert_eq!(resource.name().parse::<Resource>().unwrap(), *resource);
            assert_eq!(resource.name()[7..].to_lowercase().parse::<Resource>().unwrap(), *resource);
        }
        for (text, hint) in [
            ("nofiles", "nofile"),
            ("RLIMIT_NPORC", "nproc"),
            ("", "getrlimit(2)"),
            ("rlimit_", "getrlimit(2)"),
        ] {
            let err = text.parse::<Resource>().unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidInput);
            assert!(err.hint().unwrap().contains(hint), "{text}: {:?}", err.hint());
        }
    }

    #[test]
    fn parses_limits() {
        for (text, soft, hard) in [
            ("0", 0, 0),
            ("1024:4096", 1024, 4096),
            ("1:unlimited", 1, u64::MAX),
            ("unlimited", u64::MAX, u64::MAX),
            ("-1", u64::MAX, u64::MAX),
        ] {
            assert_eq!(text.parse::<Rlimit>().unwrap(), Rlimit::new(soft, hard), "{text}");
        }
        let bad = ["", ":", "1:", ":1", "2:1", "+1", "1.5", "1k", "1:2:3", "18446744073709551616"];
        for text in bad {
            assert!(text.parse::<Rlimit>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_soft_limit_above_the_hard_one_names_the_resource() {
        let err = Rlimit::new(Rlimit::INFINITY, 5).validate(Resource::Stack).unwrap_err();
        assert_eq!(
            err.to_string(),
            "RLIMIT_STACK with a soft limit above the hard limit, unlimited:5"
        );
        assert!(Rlimit::both(Rlimit::INFINITY).validate(Resource::Stack).is_ok());
    }
}
