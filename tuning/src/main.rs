//! tuning
fn main() {}
