// Moments along rows, of the window's taps along W: rows[n, i, j, c] = (mx, vx, cxy, my) with
//   mx = sum w x / s,  vx = sum w (x - mx)^2,  cxy = sum w (x - mx) (y - my),  s = sum w of the taps inside.
// x is image n / GROUP_X of its tensor, y image n / GROUP_Y. Central moments: nothing cancels.
// Constants: W0..W5. ssim-window.wgsl stands before. Grid: one invocation an element of [N, H, W, C].
struct Params { count: u32, height: u32, width: u32, channels: u32, group_x: u32, group_y: u32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> rows: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let index = id.x + id.y * groups.x * 64u;
  if (index >= params.count) { return; }
  let line = params.width * params.channels;
  let image = params.height * line;
  let n = index / image;
  let row = (index % image) / line;
  let j = (index % line) / params.channels;
  let c = index % params.channels;
  let base_x = (n / params.group_x) * image + row * line + c;
  let base_y = (n / params.group_y) * image + row * line + c;

  var xs: array<f32, 11>;
  var ys: array<f32, 11>;
  // Means as offsets from the pixel itself: exact where the image is flat, which is where the slopes are steepest.
  let here_x = x[base_x + j * params.channels];
  let here_y = y[base_y + j * params.channels];
  var mx = 0.0;
  var my = 0.0;
  for (var t = 0u; t < 11u; t++) {
    let tap = tap_at(t, j, params.width);
    xs[t] = x[base_x + tap.at * params.channels];
    ys[t] = y[base_y + tap.at * params.channels];
    mx += tap.weight * (xs[t] - here_x);
    my += tap.weight * (ys[t] - here_y);
  }
  let scale = 1.0 / (1.0 - missing(j, params.width));
  mx = here_x + mx * scale;
  my = here_y + my * scale;
  var vx = 0.0;
  var cxy = 0.0;
  for (var t = 0u; t < 11u; t++) {
    let weighted = tap_at(t, j, params.width).weight * (xs[t] - mx);
    vx += weighted * (xs[t] - mx);
    cxy += weighted * (ys[t] - my);
  }
  rows[index] = vec4<f32>(mx, vx, cxy, my);
}
