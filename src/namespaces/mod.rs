//! Isolated processes.
