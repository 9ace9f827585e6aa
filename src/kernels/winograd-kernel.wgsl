// y[R*r + c, i] = (L D Lᵀ)[r, c] with D[a, b] = x[SIDE*a + b, i], or turned by 180 degrees.
// x [SIDE^2, count], y [R^2, count], both as T. Constants: T = vec4<f32> or f32, SIDE, R, TURNED; L has R rows and is written into
// the lines with $, see `sandwich` in winograd.ts. Grid: one invocation a column of x.
struct Params { count: u32 }
@group(0) @binding(0) var<storage, read> x: array<T>;
@group(0) @binding(1) var<storage, read_write> y: array<T>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let count = params.count;
  let i = id.x + id.y * groups.x * 64u;
  if (i >= count) { return; }
  let d$a$b = x[select(SIDE * $au + $bu, SIDE * SIDE - 1u - (SIDE * $au + $bu), TURNED) * count + i];
  let e$r$b = $left;
  let u$r$c = $right;
  y[(R * $ru + $cu) * count + i] = u$r$c;
}
