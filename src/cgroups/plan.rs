//! Which hierarchies the limits of a cgroup take.

use super::controller::Controllers;
use super::layout::{Hierarchy, Layout};
use super::limits::Limits;
use crate::error::{Error, Result};

/// Which hierarchies a set of limits needs.
pub(super) struct Plan<'a> {
    pub(super) legacy: Vec<&'a Hierarchy>,
    /// The controllers that v2 has to carry.
    pub(super) unified: Controllers,
    /// The device rules become a program on v2.
    pub(super) devices_v2: bool,
}

impl<'a> Plan<'a> {
    pub(super) fn new(layout: &'a Layout, limits: &Limits) -> Result<Self> {
        let mut plan = Self {
            legacy: Vec::with_capacity(4),
            unified: Controllers::empty(),
            devices_v2: false,
        };
        let v2_has = layout.unified.as_ref().map_or(Controllers::empty(), |u| u.controllers);
        for (key, _) in &limits.unified {
            let controller = Controllers::of_key(key);
            if layout.unified.is_none() || !v2_has.contains(controller) {
                return Err(Error::unsupported(format!(
                    "set {key}: cgroup v2 does not have it here"
                ))
                .with_hint("the controller is on v1, or this kernel does not have it"));
            }
        }
        for controller in limits.controllers().iter() {
            plan.add(layout, v2_has, controller).ok_or_else(|| missing(layout, controller))?;
        }
        if limits.accounting {
            let counted =
                Controllers::CPU | Controllers::MEMORY | Controllers::PIDS | Controllers::IO;
            for controller in counted.iter() {
                // What this kernel cannot count stays `None` in the stats.
                _ = plan.add(layout, v2_has, controller);
            }
            if layout.unified.is_none() {
                _ = plan.add(layout, v2_has, Controllers::CPUACCT);
            }
        }
        if layout.unified.is_none() {
            // To freeze, to kill without a race, and to have a place at all.
            if plan.add(layout, v2_has, Controllers::FREEZER).is_none() && plan.legacy.is_empty() {
                plan.legacy.extend(layout.legacy.first());
            }
        }
        Ok(plan)
    }

    fn add(&mut self, layout: &'a Layout, v2_has: Controllers, one: Controllers) -> Option<()> {
        if let Some(hierarchy) = layout.legacy(one) {
            if !self.legacy.iter().any(|h| std::ptr::eq(*h, hierarchy)) {
                self.legacy.push(hierarchy);
            }
        } else if v2_has.contains(one) {
            self.unified |= one;
        } else if one == Controllers::DEVICES && layout.unified.is_some() {
            self.devices_v2 = true;
        } else {
            return None;
        }
        Some(())
    }
}

fn missing(layout: &Layout, controller: Controllers) -> Error {
    let name = controller.list();
    let err = Error::unsupported(format!("find the cgroup controller {name}"));
    if layout.unreachable.contains(controller) {
        let v1 = if controller == Controllers::IO { "blkio" } else { name.as_str() };
        return err.with_hint(format!(
            "its v1 hierarchy is not mounted where this process can reach it: \
             mount -t cgroup -o {v1} none /sys/fs/cgroup/{v1}"
        ));
    }
    let known = std::fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let on_kernel = known.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        (Controllers::from_names([fields.next()?]) == controller)
            .then(|| fields.last() == Some("1"))
    });
    match (on_kernel, &layout.unified) {
        (Some(true), Some(unified)) => err.with_hint(format!(
            "{} does not offer it: have it delegated (systemd-run --user --scope -p Delegate={name}), or \
             write +{name} to cgroup.subtree_control of each cgroup above",
            unified.root.join("cgroup.controllers").display()
        )),
        (Some(true), None) => {
            err.with_hint(format!("mount -t cgroup -o {name} none /sys/fs/cgroup/{name}"))
        }
        (Some(false), _) => err.with_hint(format!("boot with cgroup_enable={name}")),
        (None, _) => err.with_hint("this kernel was built without it"),
    }
}
