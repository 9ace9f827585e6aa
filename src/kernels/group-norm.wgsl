// Group normalisation, forward, registers only: one invocation a group of one image; `chooseGroupNormKernel`.
//   mean, variance over the group's pixels and channels;  n = (x - mean) / sqrt(variance + eps) * scale + bias
//   y = act(n * (1 + m[c]) + m[C + c]), stats[image, group] = (mean, 1 / sqrt(variance + eps))
// x, y [N, pixels, C], scale, bias [C], modulation m [N, 2C], all as T.
// The variance is centred, and the second pass corrects the mean by the mean of the deviations.
// Constants: T (f32, vec2<f32> or vec4<f32>), LANES (its components), SILU, MODULATION (bool). params.width: T a group
// and pixel. Appended: `fn total(v: T) -> f32`, the sum of the components.
// Grid: one invocation a group, count = N * groups; workgroups of 16.
struct Params { pixels: u32, groups: u32, width: u32, count: u32, eps: f32 }
@group(0) @binding(0) var<storage, read> x: array<T>;
@group(0) @binding(1) var<storage, read> scale: array<T>;
@group(0) @binding(2) var<storage, read> bias: array<T>;
@group(0) @binding(3) var<storage, read> modulation: array<T>;
@group(0) @binding(4) var<storage, read_write> y: array<T>;
@group(0) @binding(5) var<storage, read_write> stats: array<vec2<f32>>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(16)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 16u;
  if (i >= params.count) { return; }
  let n = i / params.groups;
  let channel = (i % params.groups) * params.width;
  let row = params.groups * params.width;
  let first = n * params.pixels * row + channel;
  let end = first + params.pixels * row;
  let inverse = 1.0 / f32(params.pixels * params.width * LANES);

  var sum = T();
  for (var b = 0u; b < params.width; b++) {
    for (var at = first + b; at < end; at += row) { sum += x[at]; }
  }
  let rough = total(sum) * inverse;
  var off = T();
  var squares = T();
  for (var b = 0u; b < params.width; b++) {
    for (var at = first + b; at < end; at += row) {
      let d = x[at] - rough;
      off += d;
      squares += d * d;
    }
  }
  let correction = total(off) * inverse;
  let mean = rough + correction;
  let rstd = inverseSqrt(max(total(squares) * inverse - correction * correction, 0.0) + params.eps);
  stats[i] = vec2<f32>(mean, rstd);

  for (var b = 0u; b < params.width; b++) {
    let c = channel + b;
    var factor = scale[c] * rstd;
    var shift = bias[c];
    if (MODULATION) {
      let m = modulation[n * 2u * row + c] + T(1.0);
      factor *= m;
      shift = shift * m + modulation[(n * 2u + 1u) * row + c];
    }
    for (var at = first + b; at < end; at += row) {
      var u = (x[at] - mean) * factor + shift;
      if (SILU) { u = u / (T(1.0) + exp(-clamp(u, T(-80.0), T(80.0)))); }
      y[at] = u;
    }
  }
}
