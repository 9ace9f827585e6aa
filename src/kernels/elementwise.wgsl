// y = f(x), elementwise. Constants: T (f32 or vec4<f32>). The table in elementwise.ts appends `fn f(x: T) -> T`.
// Grid: one invocation a T.
struct Params { count: u32, a: f32, b: f32 }
@group(0) @binding(0) var<storage, read> x: array<T>;
@group(0) @binding(1) var<storage, read_write> y: array<T>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i < params.count) { y[i] = f(x[i]); }
}
