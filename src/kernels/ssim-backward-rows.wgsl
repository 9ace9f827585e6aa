// dx[n, q] = scale * dy[n] * sum_o w (P0(o) + 2 (x(q) - x(o)) P1(o) + (y(q) - y(o)) P2(o)), o in q's row, P = columns of
// ssim-backward-columns.wgsl. Constants: W0..W5. ssim-window.wgsl stands before. Grid: one invocation an element of [N, H, W, C].
struct Params { count: u32, height: u32, width: u32, channels: u32, group_x: u32, group_y: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read> columns: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> dy: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let index = id.x + id.y * groups.x * 64u;
  if (index >= params.count) { return; }
  let line = params.width * params.channels;
  let image = params.height * line;
  let n = index / image;
  let e = index % image;
  let base_x = (n / params.group_x) * image;
  let base_y = (n / params.group_y) * image;
  let here_x = x[base_x + e];
  let here_y = y[base_y + e];
  let start = e - e % line + e % params.channels;
  var sum = 0.0;
  for (var t = 0u; t < 11u; t++) {
    let tap = tap_at(t, (e % line) / params.channels, params.width);
    let o = start + tap.at * params.channels;
    let p = columns[n * image + o];
    sum += tap.weight * (p.x + 2.0 * (here_x - x[base_x + o]) * p.y + (here_y - y[base_y + o]) * p.z);
  }
  dx[index] = params.scale * dy[n] * sum;
}
