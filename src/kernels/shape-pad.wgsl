// y[i] = x[i - before] where that lies in x, else value. Axes innermost first, merged where unpadded.
// Constants: T (element, or four), RANK 1, 2, 3, 6. `bits` is the value's 32-bit pattern. Counts and pads in Ts on
// the innermost axis. Grid: one invocation a T of y.
struct Params {
  count: u32, bits: u32,
  size0: vec3<u32>, size1: vec3<u32>,
  before0: vec3<u32>, before1: vec3<u32>,
  inside0: vec3<u32>, inside1: vec3<u32>,
}
@group(0) @binding(0) var<storage, read> x: array<T>;
@group(0) @binding(1) var<storage, read_write> y: array<T>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  // Coordinates below `before` wrap to huge numbers, so one comparison checks both ends.
  var rest = i;
  var n = rest / params.size0.x;
  var p = rest - n * params.size0.x - params.before0.x;
  rest = n;
  var inside = p < params.inside0.x;
  var at = p;
  var step = params.inside0.x;
  if (RANK > 1) {
    n = rest / params.size0.y; p = rest - n * params.size0.y - params.before0.y; rest = n;
    inside = inside && p < params.inside0.y; at += p * step; step *= params.inside0.y;
  }
  if (RANK > 2) {
    n = rest / params.size0.z; p = rest - n * params.size0.z - params.before0.z; rest = n;
    inside = inside && p < params.inside0.z; at += p * step; step *= params.inside0.z;
  }
  if (RANK > 3) {
    n = rest / params.size1.x; p = rest - n * params.size1.x - params.before1.x; rest = n;
    inside = inside && p < params.inside1.x; at += p * step; step *= params.inside1.x;
    n = rest / params.size1.y; p = rest - n * params.size1.y - params.before1.y; rest = n;
    inside = inside && p < params.inside1.y; at += p * step; step *= params.inside1.y;
    p = rest - params.before1.z;
    inside = inside && p < params.inside1.z; at += p * step;
  }
  if (inside) { y[i] = x[at]; } else { y[i] = T(fill(params.bits)); }
}
