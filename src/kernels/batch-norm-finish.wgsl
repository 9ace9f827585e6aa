// Adds up the chunks of batch-norm-sums.wgsl: sums[0, c] = dbias[c] = sum over k of partial[k, 0, c], sums[1, c] = dscale[c] likewise.
// Constants: T. Grid: one invocation a T of channels.
struct Params { columns: u32, chunks: u32 }
@group(0) @binding(0) var<storage, read> partial: array<T>;
@group(0) @binding(1) var<storage, read_write> sums: array<T>;
@group(0) @binding(2) var<storage, read_write> dscale: array<T>;
@group(0) @binding(3) var<storage, read_write> dbias: array<T>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let c = id.x;
  if (c >= params.columns) { return; }
  var s0 = T();
  var s1 = T();
  for (var k = 0u; k < params.chunks; k++) {
    s0 += partial[2u * k * params.columns + c];
    s1 += partial[(2u * k + 1u) * params.columns + c];
  }
  sums[c] = s0;
  sums[params.columns + c] = s1;
  dbias[c] = s0;
  dscale[c] = s1;
}
