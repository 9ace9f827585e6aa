// Two elements of x as IEEE binary16 in a word of y, rounded to nearest, ties to even. Where one of them is beyond 65504 or no
// number, the word becomes two NaNs, which the search for the first kernel that is not finite knows (pack2x16float may
// round either way, and has any value there). An odd last element has 0 beside it. Grid: one invocation a word.
struct Params { size: u32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

const beyond = 0x477ff000u; // 65520, which would round to 65536

fn half(value: f32) -> u32 {
  let bits = bitcast<u32>(value);
  let magnitude = bits & 0x7fffffffu;
  let sign = (bits >> 16u) & 0x8000u;
  // Below 2^-14, a multiple of 2^-24.
  if (magnitude < 0x38800000u) { return sign | u32(round(abs(value) * 16777216.0)); }
  return sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13u) & 1u)) >> 13u);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (2u * i >= params.size) { return; }
  let low = x[2u * i];
  var high = 0.0;
  if (2u * i + 1u < params.size) { high = x[2u * i + 1u]; }
  let largest = max(bitcast<u32>(low) & 0x7fffffffu, bitcast<u32>(high) & 0x7fffffffu);
  y[i] = select(half(low) | (half(high) << 16u), 0x7fff7fffu, largest >= beyond);
}
