//! What [`crate::fuzzing`] needs of this module.

/// The files that the kernel writes about a cgroup, and the table of mounts.
pub(crate) fn files(text: &str) {
    super::stats::parse_io_v2(text);
    super::stats::parse_io_v1(text, text);
    super::stats::parse_pressure(text);
    super::stats::limit(text);
    super::events::State::parse(text);
    text.lines().for_each(|line| drop(super::layout::Mount::parse(line)));
}
