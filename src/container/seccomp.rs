//! Seccomp profiles in the format of Docker and of the OCI.

use std::collections::BTreeSet;
use std::fs;

use serde::Deserialize;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::namespaces::seccomp::{Action, Arch, Arg, Op};
use crate::namespaces::{Capability, CapabilitySet, Seccomp};

/// A profile as `docker run --security-opt seccomp=FILE` takes it; the `linux.seccomp` of the OCI's runtime specification is
/// one too.
///
/// `includes` and `excludes` (capabilities, architectures, the least kernel) are decided for each container, by
/// [`filter`](Self::filter). As with libseccomp, a rule without arguments counts more than those with, whatever their order;
/// of several arguments of one index any must hold, and else all. Calls that only other machines have are passed over.
///
/// ```
/// use coracle::container::SeccompProfile;
///
/// SeccompProfile::from_json(r#"{
///     "defaultAction": "SCMP_ACT_ALLOW",
///     "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 }]
/// }"#)?;
/// # Ok::<(), coracle::Error>(())
/// ```
///
/// See <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp> and
/// <https://docs.docker.com/engine/security/seccomp/>.
#[derive(Clone, Debug, PartialEq)]
pub struct SeccompProfile(Document);

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    default_action: String,
    default_errno_ret: Option<i32>,
    #[serde(default)]
    arch_map: Option<Vec<Machine>>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    #[serde(default)]
    syscalls: Option<Vec<Call>>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Machine {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Call {
    /// Of old profiles, which have a rule for each name.
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<i32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Option<Conditions>,
    #[serde(default)]
    excludes: Option<Conditions>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Conditions {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Calls of machines that this crate has no table of, as profiles for all machines name them.
const ELSEWHERE: &[&str] = &[
    "arm_fadvise64_64",
    "arm_sync_file_range",
    "breakpoint",
    "cacheflush",
    "cachectl",
    "get_tls",
    "multiplexer",
    "pciconfig_iobase",
    "pciconfig_read",
    "pciconfig_write",
    "riscv_flush_icache",
    "riscv_hwprobe",
    "rtas",
    "s390_guarded_storage",
    "s390_pci_mmio_read",
    "s390_pci_mmio_write",
    "s390_runtime_instr",
    "s390_sthyi",
    "set_tls",
    "spu_create",
    "spu_run",
    "subpage_prot",
    "swapcontext",
    "switch_endian",
    "sync_file_range2",
    "syscall",
    "sysmips",
    "timerfd",
    "usr26",
    "usr32",
];

impl SeccompProfile {
    /// Reads the JSON document.
    ///
    /// # Errors
    ///
    /// `Malformed` for what is no such document. Whether its words are known, [`filter`](Self::filter) finds out.
    pub fn from_json(text: &str) -> Result<Self> {
        let document = serde_json::from_str(text).map_err(|err| {
            Error::new(ErrorKind::Malformed, err.to_string()).with_hint(
                "a profile is an object with a defaultAction and a list of syscalls, as docker's documentation shows it",
            )
        });
        document.map(Self).context(|| "read the seccomp profile")
    }

    /// The filter for a container whose processes can come to hold these capabilities, on this machine.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for an action, system call, capability, comparison, flag or version that is none, `Unsupported` for
    /// notification, which takes a program that answers.
    pub fn filter(&self, capabilities: CapabilitySet) -> Result<Seccomp> {
        self.try_filter(capabilities).context(|| "make a filter of the seccomp profile")
    }

    fn try_filter(&self, capabilities: CapabilitySet) -> Result<Seccomp> {
        let document = &self.0;
        let default = action(&document.default_action, document.default_errno_ret)?;
        let mut filter = match default {
            Action::Allow => Seccomp::allow_all(),
            other => Seccomp::deny_all(other),
        };
        filter = filter.architectures(document.architectures());
        for flag in document.flags.iter().flatten() {
            filter = match flag.as_str() {
                "SECCOMP_FILTER_FLAG_LOG" => filter.log(true),
                // Of threads there is one, and what the kernel does against speculation stays.
                "" | "SECCOMP_FILTER_FLAG_TSYNC" | "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => filter,
                "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => filter.wait_killable(true),
                _ => return Err(Error::invalid(format!("the flag {flag:?} is not known"))),
            };
        }
        let mut conditional = Vec::new();
        for call in document.syscalls.iter().flatten() {
            if !call.applies(capabilities)? {
                continue;
            }
            let action = action(&call.action, call.errno_ret)?;
            if action == default {
                continue;
            }
            let names = call.names.iter().flatten().chain(&call.name);
            let names: Vec<_> =
                names.filter(|name| !ELSEWHERE.contains(&name.as_str())).cloned().collect();
            match call.alternatives()? {
                None => filter = filter.rules(names, action, &[]),
                Some(alternatives) => conditional.push((names, action, alternatives)),
            }
        }
        for (names, action, alternatives) in conditional {
            for arguments in alternatives {
                filter = filter.rules(names.clone(), action, &arguments);
            }
        }
        // Says which call is not known, and whether the kernel can take it.
        filter.compile(capabilities.bits()).map(|_| filter)
    }
}

impl Document {
    /// Those beside the machine's own.
    fn architectures(&self) -> Vec<Arch> {
        let own =
            |it: &&Machine| arch(&it.architecture).is_some_and(|it| Some(it) == Arch::native());
        let below = self.arch_map.iter().flatten().find(own);
        let below = below.and_then(|it| it.sub_architectures.as_ref()).into_iter().flatten();
        below.chain(self.architectures.iter().flatten()).filter_map(|name| arch(name)).collect()
    }
}

impl Call {
    fn applies(&self, capabilities: CapabilitySet) -> Result<bool> {
        let nothing = Conditions::default();
        let includes = self.includes.as_ref().unwrap_or(&nothing);
        let excludes = self.excludes.as_ref().unwrap_or(&nothing);
        let holds = |names: &Option<Vec<String>>| -> Result<Vec<bool>> {
            let each = names.iter().flatten();
            each.map(|name| Ok(capabilities.contains(name.parse::<Capability>()?))).collect()
        };
        let here = |names: &Vec<String>| names.iter().any(|name| is_native(name));
        let new_enough = |least: &String| is_at_least(least);
        Ok(holds(&includes.caps)?.iter().all(|held| *held)
            && !holds(&excludes.caps)?.contains(&true)
            && includes.arches.as_ref().is_none_or(|it| it.is_empty() || here(it))
            && !excludes.arches.as_ref().is_some_and(here)
            && includes.min_kernel.as_ref().map_or(Ok(true), new_enough)?
            && !excludes.min_kernel.as_ref().map_or(Ok(false), new_enough)?)
    }

    /// The lists of conditions of which one must hold; `None` if there are none.
    fn alternatives(&self) -> Result<Option<Vec<Vec<Arg>>>> {
        let arguments = self.args.as_deref().unwrap_or_default();
        let conditions = arguments.iter().map(Argument::condition).collect::<Result<Vec<_>>>()?;
        let indices: BTreeSet<_> = arguments.iter().map(|argument| argument.index).collect();
        Ok(match conditions.len() {
            0 => None,
            several if several > indices.len() => {
                Some(conditions.into_iter().map(|condition| vec![condition]).collect())
            }
            _ => Some(vec![conditions]),
        })
    }
}

impl Argument {
    fn condition(&self) -> Result<Arg> {
        let Self { index, value, value_two, op } = self;
        let (op, value) = match op.as_str() {
            "SCMP_CMP_NE" => (Op::Ne, *value),
            "SCMP_CMP_LT" => (Op::Lt, *value),
            "SCMP_CMP_LE" => (Op::Le, *value),
            "SCMP_CMP_EQ" => (Op::Eq, *value),
            "SCMP_CMP_GE" => (Op::Ge, *value),
            "SCMP_CMP_GT" => (Op::Gt, *value),
            // The kernel's library masks both sides.
            "SCMP_CMP_MASKED_EQ" => (Op::MaskedEq(*value), *value_two & *value),
            _ => return Err(Error::invalid(format!("the comparison {op:?} is not known"))),
        };
        Ok(Arg::new(*index, op, value))
    }
}

fn action(name: &str, errno: Option<i32>) -> Result<Action> {
    let errno = errno.unwrap_or(libc::EPERM);
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => Action::Errno(errno),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_TRACE" => Action::Trace(u16::try_from(errno).map_err(|_| {
            Error::invalid(format!("{errno} is no number that a tracer can be given"))
        })?),
        "SCMP_ACT_NOTIFY" => {
            return Err(Error::unsupported(
                "the action SCMP_ACT_NOTIFY takes a program that answers",
            )
            .with_hint(
                "a program that embeds the engine can: `namespaces::seccomp::Action::Notify`",
            ));
        }
        _ => {
            return Err(Error::invalid(format!("the action {name:?} is not known")).with_hint(
                "actions are SCMP_ACT_ALLOW, _ERRNO, _KILL_PROCESS, _KILL_THREAD, _TRAP, _LOG and _TRACE",
            ));
        }
    })
}

/// One of those that there are tables of.
fn arch(name: &str) -> Option<Arch> {
    match name {
        "SCMP_ARCH_X86_64" => Some(Arch::X86_64),
        "SCMP_ARCH_X86" => Some(Arch::X86),
        "SCMP_ARCH_AARCH64" => Some(Arch::Aarch64),
        _ => None,
    }
}

/// By the names of Go's that profiles use.
fn is_native(name: &str) -> bool {
    match Arch::native() {
        Some(Arch::X86_64) => matches!(name, "amd64" | "x86_64"),
        Some(Arch::Aarch64) => matches!(name, "arm64" | "aarch64"),
        _ => false,
    }
}

fn is_at_least(least: &str) -> Result<bool> {
    const RELEASE: &str = "/proc/sys/kernel/osrelease";
    let invalid = || Error::invalid(format!("{least:?} is no version of the kernel"));
    let least = version(least).ok_or_else(invalid)?;
    let release = fs::read_to_string(RELEASE).context(|| format!("read {RELEASE}"))?;
    let digits = |c: char| !c.is_ascii_digit() && c != '.';
    let release = release.split(digits).next().unwrap_or_default();
    Ok(version(release).is_some_and(|release| release >= least))
}

/// `6.1` of `6.1.2`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next().unwrap_or(Some(0))?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is test code")]
mod tests {
    use super::*;

    fn filter(text: &str, capabilities: &[Capability]) -> Result<Seccomp> {
        let capabilities = capabilities.iter().copied().collect();
        SeccompProfile::from_json(text)?.filter(capabilities)
    }

    #[test]
    fn what_applies_is_what_counts() {
        let rules = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "comment": "any", "syscalls": [
            {"names": ["read", "arm_fadvise64_64"], "action": "SCMP_ACT_ALLOW"},
            {"name": "write", "action": "SCMP_ACT_ALLOW", "args": null, "includes": {}, "excludes": null},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["kcmp"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}},
            {"names": ["chroot"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64", "arm64"]}},
            {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "arm64"]}}
        ]}"#;
        for (capabilities, permitted) in [
            (&[][..], ["read", "write", "ptrace", "chroot", "bpf"]),
            (&[Capability::SysAdmin], ["read", "write", "ptrace", "mount", "bpf"]),
        ] {
            let filter = filter(rules, capabilities).unwrap();
            for name in ["read", "write", "mount", "ptrace", "kcmp", "chroot", "clone", "bpf"] {
                assert_eq!(filter.permits(name, 0), permitted.contains(&name), "{name}");
            }
        }
    }

    #[test]
    fn conditions_are_those_of_libseccomp() {
        let rules = |args: &str| {
            let rules = format!(
                r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                    {{"names": ["personality"], "action": "SCMP_ACT_KILL", "args": [{args}]}},
                    {{"names": ["mkdir"], "action": "SCMP_ACT_TRAP", "args": [{args}]}},
                    {{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}}
                ]}}"#
            );
            filter(&rules, &[]).unwrap()
        };
        let base = || Seccomp::allow_all().architectures([]).deny("mkdir", libc::EPERM);
        let both = |filter: Seccomp, args: &[Arg]| {
            let filter = filter.rule("personality", Action::KillThread, args);
            filter.rule("mkdir", Action::Trap, args)
        };
        let (one, two) = (Arg::new(0, Op::Eq, 8), Arg::new(1, Op::MaskedEq(0xf0), 0x30));
        let other = Arg::new(0, Op::Ge, 9);
        let (first, second, third) = (
            r#"{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}"#,
            r#"{"index": 1, "value": 240, "valueTwo": 49, "op": "SCMP_CMP_MASKED_EQ"}"#,
            r#"{"index": 0, "value": 9, "op": "SCMP_CMP_GE"}"#,
        );
        let compiled = |filter: &Seccomp| filter.compile(0).unwrap();
        let all = rules(&format!("{first}, {second}"));
        assert_eq!(compiled(&all), compiled(&both(base(), &[one, two])));
        let any = rules(&format!("{first}, {third}"));
        let expected = Seccomp::allow_all().architectures([]).deny("mkdir", libc::EPERM);
        let expected = expected.rule("personality", Action::KillThread, &[one]);
        let expected = expected.rule("personality", Action::KillThread, &[other]);
        assert_eq!(compiled(&any), compiled(&expected));
    }

    #[test]
    fn mistakes_are_told() {
        let call = |call: &str| {
            format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{{call}}}]}}"#)
        };
        for (text, word) in [
            ("nothing".to_owned(), "expected"),
            ("{}".to_owned(), "defaultAction"),
            (r#"{"defaultAction": "SCMP_ACT_NONE"}"#.to_owned(), "SCMP_ACT_NONE"),
            (call(r#""names": ["opne"], "action": "SCMP_ACT_ERRNO""#), "opne"),
            (call(r#""names": ["open"], "action": "ERRNO""#), "ERRNO"),
            (call(r#""names": ["open"], "action": "SCMP_ACT_NOTIFY""#), "SCMP_ACT_NOTIFY"),
            (call(r#""names": ["open"]"#), "action"),
            (
                call(
                    r#""names": ["open"], "action": "SCMP_ACT_KILL", "includes": {"caps": ["CAP_X"]}"#,
                ),
                "CAP_X",
            ),
            (
                call(
                    r#""names": ["open"], "action": "SCMP_ACT_KILL", "includes": {"minKernel": "new"}"#,
                ),
                "\"new\" is no version",
            ),
            (
                call(
                    r#""names": ["open"], "action": "SCMP_ACT_KILL", "args": [{"index": 0, "value": 1, "op": "EQ"}]"#,
                ),
                "\"EQ\"",
            ),
            (
                call(
                    r#""names": ["open"], "action": "SCMP_ACT_KILL", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]"#,
                ),
                "argument 6",
            ),
        ] {
            let err = filter(&text, &[]).unwrap_err();
            assert!(format!("{err:#}").contains(word), "{text}: {err:#}");
        }
    }
}
