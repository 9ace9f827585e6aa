// Statistics of chunks of rows: partial[k, 0, c] = mean of rows k * chunk to (k + 1) * chunk - 1 of x, partial[k, 1, c] = sum of the
// squared deviations from it. x [rows, columns] as T. Constants: T. Grid: one invocation a chunk and T of channels; count of them.
struct Params { rows: u32, columns: u32, chunk: u32, count: u32 }
@group(0) @binding(0) var<storage, read> x: array<T>;
@group(0) @binding(1) var<storage, read_write> partial: array<T>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  let c = i % params.columns;
  let k = i / params.columns;
  let first = k * params.chunk;
  let rows = min(params.chunk, params.rows - first);
  let start = first * params.columns + c;
  let end = start + rows * params.columns;
  var sum = T();
  for (var at = start; at < end; at += params.columns) { sum += x[at]; }
  let mean = sum / f32(rows);
  var squares = T();
  for (var at = start; at < end; at += params.columns) {
    let d = x[at] - mean;
    squares += d * d;
  }
  partial[2u * k * params.columns + c] = mean;
  partial[(2u * k + 1u) * params.columns + c] = squares;
}
