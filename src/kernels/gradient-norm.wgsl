// table[row, lane] = sum of squares of every LANES-th element of a gradient, for the norm over all of them.
// Constants: T (f32 or vec4<f32>), LANES. Grid: LANES invocations.
struct Params { count: u32, row: u32 }
@group(0) @binding(0) var<storage, read> g: array<T>;
@group(0) @binding(1) var<storage, read_write> table: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  var total = T(0.0);
  for (var i = id.x; i < params.count; i += LANES) { total += g[i] * g[i]; }
  table[params.row * LANES + id.x] = finish(total);
}
