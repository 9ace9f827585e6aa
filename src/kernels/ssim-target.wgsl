// target_moments[b, i, j, c] = (mu, E[y^2] - mu^2) of the target, from its row moments with itself.
// Constants: W0..W5. ssim-window.wgsl and ssim-columns.wgsl stand before. Grid: one invocation an element of [B, H, W, C].
struct Params { count: u32, height: u32, width: u32, channels: u32 }
@group(0) @binding(0) var<storage, read> rows: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> target_moments: array<vec2<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let index = id.x + id.y * groups.x * 64u;
  if (index >= params.count) { return; }
  let line = params.width * params.channels;
  let image = params.height * line;
  let m = moments(index / image, (index % image) / line, (index % line) / params.channels, index % params.channels);
  target_moments[index] = vec2<f32>(m.mu_x, m.var_x);
}
