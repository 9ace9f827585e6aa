// y[i] = x[offset + i0 s0 + i1 s1 + ...], the walk of shape-index.ts: transposes, slices, broadcasts.
// Constants: T (y's element), S (x's: T, or its scalar where x is constant along the innermost axis), RANK 1, 2, 3, 6.
// Grid: one invocation a T.
struct Params {
  count: u32, offset: u32,
  size0: vec3<u32>, size1: vec3<u32>,
  x0: vec3<u32>, x1: vec3<u32>,
}
@group(0) @binding(0) var<storage, read> x: array<S>;
@group(0) @binding(1) var<storage, read_write> y: array<T>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  var rest = i;
  var at = params.offset;
  if (RANK > 1) { let n = rest / params.size0.x; at += (rest - n * params.size0.x) * params.x0.x; rest = n; }
  if (RANK > 2) { let n = rest / params.size0.y; at += (rest - n * params.size0.y) * params.x0.y; rest = n; }
  if (RANK > 3) {
    var n = rest / params.size0.z; at += (rest - n * params.size0.z) * params.x0.z; rest = n;
    n = rest / params.size1.x; at += (rest - n * params.size1.x) * params.x1.x; rest = n;
    n = rest / params.size1.y; at += (rest - n * params.size1.y) * params.x1.y; rest = n;
  }
  let outer = select(select(select(params.x1.z, params.x0.z, RANK == 3), params.x0.y, RANK == 2), params.x0.x, RANK == 1);
  y[i] = T(x[at + rest * outer]);
}
