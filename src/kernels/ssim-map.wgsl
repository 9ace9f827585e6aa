// The SSIM map and its mean over an image, from row moments of (x, y) and the moments of y:
//   f = (2 mu_x mu_y + C1) (2 cov + C2) / ((mu_x^2 + mu_y^2 + C1) (var_x + var_y + C2)),
// parts[n, p] = sum of f over elements e = p, p + parts, ... of image n; y's moments are those of image n / group.
// The main function is appended: with SLOPES it also writes slopes[n, e] = (df/dmu_x, df/dvar_x, df/dcov, mu_x).
// Constants: W0..W5. ssim-window.wgsl and ssim-columns.wgsl stand before. Grid: one invocation a partial sum.
struct Params { images: u32, parts: u32, height: u32, width: u32, channels: u32, group: u32 }
@group(0) @binding(0) var<storage, read> rows: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> target_moments: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> parts: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

const C1 = 1e-4;
const C2 = 9e-4;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  let n = i / params.parts;
  if (n >= params.images) { return; }
  let line = params.width * params.channels;
  let image = params.height * line;
  var sum = 0.0;
  for (var e = i % params.parts; e < image; e += params.parts) {
    let m = moments(n, e / line, (e % line) / params.channels, e % params.channels);
    let y = target_moments[(n / params.group) * image + e];
    let n1 = 2.0 * m.mu_x * y.x + C1;
    let n2 = 2.0 * m.cov + C2;
    let d1 = m.mu_x * m.mu_x + y.x * y.x + C1;
    let d2 = m.var_x + y.y + C2;
    let f = (n1 / d1) * (n2 / d2);
    sum += f;
    // The slope in mu_x is 2 (n2 / d2) (mu_y d1 - mu_x n1) / d1^2; the bracket without its cancelling squares:
    let bracket = (y.x - m.mu_x) * (y.x * (y.x + m.mu_x) + C1);
    store(n * image + e, vec4<f32>(2.0 * (n2 / d2) * bracket / (d1 * d1), -f / d2, 2.0 * (n1 / d1) / d2, m.mu_x));
  }
  parts[i] = sum;
}
