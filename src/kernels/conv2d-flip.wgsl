// y[ky, kx, co, ci] = w[kh-1-ky, kw-1-kx, ci, co]: the kernel of the input gradient, itself a convolution.
// Grid: one invocation an element.
struct Params { taps: u32, cin: u32, cout: u32, count: u32 }
@group(0) @binding(0) var<storage, read> w: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  let ci = i % params.cin;
  let co = (i / params.cin) % params.cout;
  let tap = i / (params.cin * params.cout);
  y[i] = w[((params.taps - 1u - tap) * params.cin + ci) * params.cout + co];
}
