//! Quotas: cgroups.
