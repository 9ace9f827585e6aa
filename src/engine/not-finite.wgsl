// first = min(first, index) where a word of x is the pattern of an f32 that is infinite or NaN.
// The bits are looked at: drivers may assume that there is no NaN. Grid: one invocation a word.
struct Params { count: u32, index: u32 }
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> first: array<atomic<u32>>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i < params.count && (x[i] & 0x7f800000u) == 0x7f800000u) { atomicMin(&first[0], params.index); }
}
