// x = clamp(clean + eps·δ/‖δ‖, 0, 1): δ is a grid of bumps of side plans[0].x, each with a random sign a channel and at
// random upright or lying. In L1 x = clean + the projection of δ. philox.wgsl, reduce.wgsl and l1-projection.wgsl stand
// before. Constants: THREADS, CHANNELS, L1.
// Grid: one workgroup an image [height, width, channels].
struct Params {
  rows: u32, size: u32, height: u32, width: u32, channels: u32, purpose: u32, seed_low: u32, seed_high: u32, eps: f32,
  radius: f32,
}
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read> clean: array<f32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read> run: array<u32>;
@group(0) @binding(4) var<storage, read> plans: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read> bumps: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;

fn raw(i: u32) -> f32 { return x[i]; }

fn delta(within: u32, row: u32) -> f32 {
  let side = plans[0].x;
  let margin = (params.height - side * 5u) / 2u;
  let channel = within % params.channels;
  let column = within / params.channels % params.width;
  let line = within / (params.channels * params.width);
  if (line < margin || column < margin) { return 0.0; }
  let tile = vec2<u32>((line - margin) / side, (column - margin) / side);
  let across = params.width / side;
  if (tile.x >= params.height / side || tile.y >= across) { return 0.0; }
  let key = vec2<u32>(params.seed_low, params.seed_high);
  let words = philox4x32(vec4<u32>(tile.x * across + tile.y, ids[row], params.purpose, run[0]), key);
  let at = vec2<u32>((line - margin) % side, (column - margin) % side);
  let turned = select(at.x * side + at.y, at.y * side + at.x, (words.y & 1u) == 1u);
  return select(-1.0, 1.0, ((words.x >> channel) & 1u) == 1u) * bumps[plans[0].y + turned];
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = group.x + group.y * groups.x;
  if (row >= params.rows) { return; }
  let first = row * params.size;
  if (L1) {
    for (var k = lane; k < params.size; k += u32(THREADS)) { x[first + k] = delta(k, row); }
    storageBarrier();
    l1_project(first, first + params.size, lane, params.radius);
    return;
  }
  var sum = 0.0;
  for (var k = lane; k < params.size; k += u32(THREADS)) {
    let d = delta(k, row);
    sum += d * d;
  }
  let scale = params.eps / (sqrt(total(sum, lane)) + 1e-12);
  for (var k = lane; k < params.size; k += u32(THREADS)) {
    x[first + k] = clamp(clean[first + k] + scale * delta(k, row), 0.0, 1.0);
  }
}
