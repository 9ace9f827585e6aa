// y[o*stride + offset + c] = x[o*inner + c] for c < inner: one argument of a concatenation.
// Constants: T (element, or four). Counts in Ts. Grid: one invocation a T of x.
struct Params { count: u32, inner: u32, stride: u32, offset: u32 }
@group(0) @binding(0) var<storage, read> x: array<T>;
@group(0) @binding(1) var<storage, read_write> y: array<T>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  let o = i / params.inner;
  y[o * params.stride + params.offset + (i - o * params.inner)] = x[i];
}
