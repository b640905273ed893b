//! perf
fn main() {}
