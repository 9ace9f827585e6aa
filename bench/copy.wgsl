// y = x, EACH vec4 an invocation: the bandwidth of memory. Constants: EACH. Grid: one invocation EACH vec4; workgroups of 64.
struct Params { count: u32 }
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let first = (group.x + group.y * groups.x) * 64u * EACH + local;
  for (var j = 0u; j < EACH; j++) {
    let i = first + j * 64u;
    if (i < params.count) { y[i] = x[i]; }
  }
}
