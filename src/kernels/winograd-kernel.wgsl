// y[R*r + c, i] = (L D Lᵀ)[r, c] with D[a, b] = x[SIDE*a + b, i], or turned by 180 degrees.
// x [SIDE^2, count], y [R^2, count]. Constants: SIDE, R, the rows of L, which is written into the lines with $, see `sandwich` in
// winograd.ts. Grid: one invocation a column of x.
struct Params { count: u32, turned: u32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let p = params;
  let i = id.x + id.y * groups.x * 64u;
  if (i >= p.count) { return; }
  // From the last element backwards, or from the first on; both wrap around.
  let first = i + select(0u, (SIDE * SIDE - 1u) * p.count, p.turned != 0u);
  let step = select(p.count, 0u - p.count, p.turned != 0u);
  let d$a$b = x[first + (SIDE * $au + $bu) * step];
  let e$r$b = $left;
  let u$r$c = $right;
  y[(R * $ru + $cu) * p.count + i] = u$r$c;
}
