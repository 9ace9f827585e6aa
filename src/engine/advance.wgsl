// step[0] += 1. Grid: one invocation.
@group(0) @binding(0) var<storage, read_write> step: array<u32>;

@compute @workgroup_size(1)
fn main() { step[0] = step[0] + 1u; }
