// Mean and biased variance of all rows from those of chunks (batch-norm-moments.wgsl), after Chan, Golub and LeVeque:
//   mean = sum of n_k mean_k / rows,  variance = sum of (squares_k + n_k (mean_k - mean)^2) / rows
// Constants: T. Grid: one invocation a T of channels.
struct Params { rows: u32, columns: u32, chunk: u32, chunks: u32 }
@group(0) @binding(0) var<storage, read> partial: array<T>;
@group(0) @binding(1) var<storage, read_write> mean: array<T>;
@group(0) @binding(2) var<storage, read_write> variance: array<T>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let c = id.x;
  if (c >= params.columns) { return; }
  var sum = T();
  for (var k = 0u; k < params.chunks; k++) {
    let n = f32(min(params.chunk, params.rows - k * params.chunk));
    sum += n * partial[2u * k * params.columns + c];
  }
  let m = sum / f32(params.rows);
  var squares = T();
  for (var k = 0u; k < params.chunks; k++) {
    let n = f32(min(params.chunk, params.rows - k * params.chunk));
    let d = partial[2u * k * params.columns + c] - m;
    squares += partial[(2u * k + 1u) * params.columns + c] + n * d * d;
  }
  mean[c] = m;
  variance[c] = squares / f32(params.rows);
}
