// A loss of the logits z of a row, with the classes it depends on (taps) and its derivatives by them (weights).
// With y = labels[r], t = targets[r], v the four largest logits:
//   MODE 0  max_{j≠y} z_j − z_y                 MODE 1  z_t − max_{j≠t} z_j
//   MODE 2  −(z_y − max_{j≠y} z_j)/(v0 − v2)     MODE 3  −(z_y − z_t)/(v0 − (v2 + v3)/2)       MODE 4  z_t − z_y
// Constants: MODE. Grid: one invocation a row.
struct Params { rows: u32, classes: u32 }
@group(0) @binding(0) var<storage, read> z: array<f32>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read> targets: array<u32>;
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;
@group(0) @binding(4) var<storage, read_write> taps: array<u32>;
@group(0) @binding(5) var<storage, read_write> weights: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(16)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let r = id.x + id.y * groups.x * 16u;
  if (r >= params.rows) { return; }
  let at = r * params.classes;
  let y = labels[r];
  let t = targets[r];
  // The four largest, the first of equals first.
  var v = vec4<f32>(-3.0e38);
  var k = vec4<u32>(0u);
  for (var c = 0u; c < params.classes; c++) {
    let u = z[at + c];
    if (u > v.x) {
      v = vec4<f32>(u, v.xyz);
      k = vec4<u32>(c, k.xyz);
    } else if (u > v.y) {
      v = vec4<f32>(v.x, u, v.yz);
      k = vec4<u32>(k.x, c, k.yz);
    } else if (u > v.z) {
      v = vec4<f32>(v.xy, u, v.z);
      k = vec4<u32>(k.xy, c, k.z);
    } else if (u > v.w) {
      v.w = u;
      k.w = c;
    }
  }
  let zy = z[at + y];
  let zt = z[at + t];
  let own = select(y, t, MODE == 1);
  let rival = select(k.x, k.y, k.x == own);
  let zr = select(v.x, v.y, k.x == own);

  var value = 0.0;
  var tap = array<u32, 5>(y, t, k.x, k.z, k.w);
  var w = array<f32, 5>(0.0, 0.0, 0.0, 0.0, 0.0);
  if (MODE == 0) {
    value = zr - zy;
    tap[1] = rival;
    w[0] = -1.0;
    w[1] = 1.0;
  } else if (MODE == 1) {
    value = zt - zr;
    tap[0] = rival;
    w[0] = -1.0;
    w[1] = 1.0;
  } else if (MODE == 4) {
    value = zt - zy;
    w[0] = -1.0;
    w[1] = 1.0;
  } else {
    // −n/d: by n −1/d, by d n/d².
    var other = zr;
    var d = v.x - v.z + 1e-12;
    if (MODE == 2) { tap[1] = rival; } else {
      other = zt;
      d = v.x - 0.5 * (v.z + v.w) + 1e-12;
    }
    let n = zy - other;
    value = -n / d;
    let by_d = n / d / d;
    w[0] = -1.0 / d;
    w[1] = 1.0 / d;
    w[2] = by_d;
    w[3] = select(-0.5, -1.0, MODE == 2) * by_d;
    w[4] = select(-0.5, 0.0, MODE == 2) * by_d;
  }
  loss[r] = value;
  for (var i = 0u; i < 5u; i++) {
    taps[5u * r + i] = tap[i];
    weights[5u * r + i] = w[i];
  }
}
