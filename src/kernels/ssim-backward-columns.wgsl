// The transpose of the window along columns. dx(q) = sum_p w(q - p) [a(p) + 2 (x(q) - mu_x(p)) b(p) + (y(q) - mu_y(p)) c(p)]
// with (a, b, c) the slopes. The differences are taken in two steps over the pixel o between them, in q's row and p's column, so that only
// near numbers are subtracted:
//   columns[n, o] = (sum_p w (a + 2 (x(o) - mu_x) b + (y(o) - mu_y) c), sum_p w b, sum_p w c, 0), p in o's column.
// Constants: W0..W5. ssim-window.wgsl stands before. Grid: one invocation an element of [N, H, W, C].
struct Params { count: u32, height: u32, width: u32, channels: u32, group_x: u32, group_y: u32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read> slopes: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> target_moments: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> columns: array<vec4<f32>>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let index = id.x + id.y * groups.x * 64u;
  if (index >= params.count) { return; }
  let line = params.width * params.channels;
  let image = params.height * line;
  let n = index / image;
  let e = index % image;
  let target_image = (n / params.group_y) * image;
  let here_x = x[(n / params.group_x) * image + e];
  let here_y = y[target_image + e];
  var sum = vec4<f32>(0.0);
  for (var t = 0u; t < 11u; t++) {
    let tap = tap_at(t, e / line, params.height);
    let p = tap.at * line + e % line;
    let s = slopes[n * image + p];
    let mu_y = target_moments[target_image + p].x;
    sum += tap.weight * vec4<f32>(s.x + 2.0 * (here_x - s.w) * s.y + (here_y - mu_y) * s.z, s.y, s.z, 0.0);
  }
  columns[index] = sum;
}
