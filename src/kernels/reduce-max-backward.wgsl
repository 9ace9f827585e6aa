// dx[o,r,c] = dy[o,c] where r = index[o,c], else 0; x [outer, length, inner]. Grid: one invocation an element of x.
struct Params { count: u32, length: u32, inner: u32 }
@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read> index: array<u32>;
@group(0) @binding(2) var<storage, read_write> dx: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  let j = i / params.inner;
  let o = j / params.length;
  let at = o * params.inner + (i - j * params.inner);
  dx[i] = select(0.0, dy[at], index[at] == j - o * params.length);
}
