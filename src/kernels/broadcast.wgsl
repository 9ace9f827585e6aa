// y = f(a, b) with broadcasting: the walk of shape-index.ts over two operands.
// Constants: T (y's element, f32 or vec4<f32>), A and B (a's and b's: T, or f32 where constant along the innermost
// axis), RANK 1, 2, 3, 6. broadcast.ts appends `fn f(a: T, b: T) -> T`. Grid: one invocation a T.
struct Params {
  count: u32,
  size0: vec3<u32>, size1: vec3<u32>,
  a0: vec3<u32>, a1: vec3<u32>,
  b0: vec3<u32>, b1: vec3<u32>,
}
@group(0) @binding(0) var<storage, read> a: array<A>;
@group(0) @binding(1) var<storage, read> b: array<B>;
@group(0) @binding(2) var<storage, read_write> y: array<T>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  var rest = i;
  var at = vec2<u32>(0u);
  if (RANK > 1) { let n = rest / params.size0.x; at += (rest - n * params.size0.x) * vec2(params.a0.x, params.b0.x); rest = n; }
  if (RANK > 2) { let n = rest / params.size0.y; at += (rest - n * params.size0.y) * vec2(params.a0.y, params.b0.y); rest = n; }
  if (RANK > 3) {
    var n = rest / params.size0.z; at += (rest - n * params.size0.z) * vec2(params.a0.z, params.b0.z); rest = n;
    n = rest / params.size1.x; at += (rest - n * params.size1.x) * vec2(params.a1.x, params.b1.x); rest = n;
    n = rest / params.size1.y; at += (rest - n * params.size1.y) * vec2(params.a1.y, params.b1.y); rest = n;
  }
  if (RANK == 1) { at += rest * vec2(params.a0.x, params.b0.x); }
  else if (RANK == 2) { at += rest * vec2(params.a0.y, params.b0.y); }
  else if (RANK == 3) { at += rest * vec2(params.a0.z, params.b0.z); }
  else { at += rest * vec2(params.a1.z, params.b1.z); }
  y[i] = f(T(a[at.x]), T(b[at.y]));
}
