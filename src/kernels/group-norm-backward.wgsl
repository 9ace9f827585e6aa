// Group normalisation, backward, registers only: one invocation a group of one image.
//   h = (x - mean) * rstd,  u = (h * scale + bias) * (1 + m[c]) + m[C + c],  du = dy * act'(u),  k = scale * (1 + m[c])
//   dx = rstd * (k du - mean(k du) - h mean(k du h)), means over the group
//   sums[image, 0, c] = sum over pixels of du, sums[image, 1, c] = sum over pixels of du h: the other gradients follow.
// Constants, shapes and grid: as group-norm.wgsl; sums [N, 2, C] as T.
struct Params { pixels: u32, groups: u32, width: u32, count: u32 }
@group(0) @binding(0) var<storage, read> x: array<T>;
@group(0) @binding(1) var<storage, read> dy: array<T>;
@group(0) @binding(2) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> scale: array<T>;
@group(0) @binding(4) var<storage, read> bias: array<T>;
@group(0) @binding(5) var<storage, read> modulation: array<T>;
@group(0) @binding(6) var<storage, read_write> dx: array<T>;
@group(0) @binding(7) var<storage, read_write> sums: array<T>;
@group(0) @binding(8) var<uniform> params: Params;

/// act'(u)
fn slope(u: T) -> T {
  let s = T(1.0) / (T(1.0) + exp(-clamp(u, T(-80.0), T(80.0))));
  return s * (T(1.0) + u * (T(1.0) - s));
}

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
  let mean = stats[i].x;
  let rstd = stats[i].y;

  var plain = 0.0;
  var weighted = 0.0;
  for (var b = 0u; b < params.width; b++) {
    let c = channel + b;
    var k = scale[c];
    var shift = bias[c];
    if (MODULATION) {
      let m = modulation[n * 2u * row + c] + T(1.0);
      k *= m;
      shift = shift * m + modulation[(n * 2u + 1u) * row + c];
    }
    var s0 = T();
    var s1 = T();
    for (var at = first + b; at < end; at += row) {
      let h = (x[at] - mean) * rstd;
      var du = dy[at];
      if (SILU) {
        du *= slope(h * k + shift);
        // Kept for the second pass.
        dx[at] = du;
      }
      s0 += du;
      s1 += du * h;
    }
    sums[n * 2u * row + c] = s0;
    sums[(n * 2u + 1u) * row + c] = s1;
    plain += total(k * s0);
    weighted += total(k * s1);
  }
  plain *= inverse * rstd;
  weighted *= inverse * rstd * rstd;

  for (var b = 0u; b < params.width; b++) {
    let c = channel + b;
    var k = scale[c] * rstd;
    if (MODULATION) { k *= modulation[n * 2u * row + c] + T(1.0); }
    for (var at = first + b; at < end; at += row) {
      var du = T();
      if (SILU) { du = dx[at]; } else { du = dy[at]; }
      dx[at] = k * du - plain - (x[at] - mean) * weighted;
    }
  }
}
