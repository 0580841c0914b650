//! Images: what a root filesystem is made of, how it came about and what to run on it, in a store that shares
//! layers.
