// Gradients of scale and bias from the sums of group-norm-backward.wgsl, in which s0 = sums[n, 0, c], s1 = sums[n, 1, c]:
//   dscale[c] = sum over n of (1 + m[n, c]) s1,  dbias[c] = sum over n of (1 + m[n, c]) s0
// Constants: T (f32, vec2<f32> or vec4<f32>), MODULATION (bool). Grid: one invocation a T of channels.
struct Params { batch: u32, channels: u32 }
@group(0) @binding(0) var<storage, read> sums: array<T>;
@group(0) @binding(1) var<storage, read> modulation: array<T>;
@group(0) @binding(2) var<storage, read_write> dscale: array<T>;
@group(0) @binding(3) var<storage, read_write> dbias: array<T>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let c = id.x;
  if (c >= params.channels) { return; }
  var forBias = T();
  var forScale = T();
  for (var n = 0u; n < params.batch; n++) {
    let at = n * 2u * params.channels + c;
    var s0 = sums[at];
    var s1 = sums[at + params.channels];
    if (MODULATION) {
      let m = modulation[at] + T(1.0);
      s0 *= m;
      s1 *= m;
    }
    forBias += s0;
    forScale += s1;
  }
  dscale[c] = forScale;
  dbias[c] = forBias;
}
