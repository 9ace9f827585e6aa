// y[r] = scale * sum_p parts[r, p]. The second half of a sum over an image: the first kernel leaves `count` partial sums a row.
// Grid: one invocation a row.
struct Params { rows: u32, count: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> parts: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let r = id.x + id.y * groups.x * 64u;
  if (r >= params.rows) { return; }
  // Four chains: fewer roundings, and loads that do not wait for the sum before.
  var sum = vec4<f32>(0.0);
  let first = r * params.count;
  var p = 0u;
  for (; p + 4u <= params.count; p += 4u) {
    let i = first + p;
    sum += vec4<f32>(parts[i], parts[i + 1u], parts[i + 2u], parts[i + 3u]);
  }
  for (; p < params.count; p++) { sum.x += parts[first + p]; }
  y[r] = params.scale * ((sum.x + sum.y) + (sum.z + sum.w));
}
