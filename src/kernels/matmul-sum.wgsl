// y[s, c] = scale * sum of x[r, c] over the rows r of chunk s, r from s*chunk to (s+1)*chunk: column sums, or one
// level of them. Reduces split-K partial products and bias gradients in a fixed order.
// x [rows, columns], y [ceil(rows/chunk), columns], columns counted in T.
// Constants: T (f32 or vec4<f32>). Grid: one invocation a T of y.
struct Params { rows: u32, columns: u32, chunk: u32, count: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> x: array<T>;
@group(0) @binding(1) var<storage, read_write> y: array<T>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  let c = i % params.columns;
  let first = (i / params.columns) * params.chunk;
  let last = min(first + params.chunk, params.rows);
  var sum = T();
  var r = first;
  // Four loads on their way together.
  for (; r + 4u <= last; r += 4u) {
    let at = r * params.columns + c;
    let a = x[at];
    let b = x[at + params.columns];
    let d = x[at + 2u * params.columns];
    let e = x[at + 3u * params.columns];
    sum = (((sum + a) + b) + d) + e;
  }
  for (; r < last; r++) { sum += x[r * params.columns + c]; }
  y[i] = sum * params.scale;
}
