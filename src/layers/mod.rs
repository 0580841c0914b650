//! Root filesystem stacks.
