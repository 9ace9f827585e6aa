// Keeps the nearest boundary so far: that of class targets[r], with gap loss[r] = z_t − z_y and its gradient, where
// |gap| / (‖gradient‖* + 1e-12) is below distance[r]; ‖·‖* is the dual norm: L1 for L∞, L∞ for L1, L2. The true class has no
// boundary with itself. reduce.wgsl stands before. Constants: THREADS, NORM (0 L∞, 1 L1, 2 L2). Grid: one workgroup an image.
struct Params { rows: u32, size: u32 }
@group(0) @binding(0) var<storage, read> gradient: array<f32>;
@group(0) @binding(1) var<storage, read> loss: array<f32>;
@group(0) @binding(2) var<storage, read> labels: array<u32>;
@group(0) @binding(3) var<storage, read> targets: array<u32>;
@group(0) @binding(4) var<storage, read_write> normal: array<f32>;
@group(0) @binding(5) var<storage, read_write> gap: array<f32>;
@group(0) @binding(6) var<storage, read_write> distance: array<f32>;
@group(0) @binding(7) var<uniform> params: Params;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = group.x + group.y * groups.x;
  if (row >= params.rows) { return; }
  let first = row * params.size;
  let end = first + params.size;
  var s = vec2<f32>(0.0);
  for (var i = first + lane; i < end; i += u32(THREADS)) {
    let g = abs(gradient[i]);
    if (NORM == 1) { s = max(s, vec2<f32>(g)); } else { s += select(g * g, g, NORM == 0); }
  }
  var length = 0.0;
  if (NORM == 1) { length = largest2(s, lane).x; } else { length = total2(s, lane).x; }
  if (NORM == 2) { length = sqrt(length); }
  let here = select(abs(loss[row]), 1e10, targets[row] == labels[row]) / (1e-12 + length);
  let nearer = here < distance[row];
  storageBarrier(); // all lanes have read the distance
  if (nearer) {
    for (var i = first + lane; i < end; i += u32(THREADS)) { normal[i] = gradient[i]; }
    if (lane == 0u) {
      gap[row] = loss[row];
      distance[row] = here;
    }
  }
}
