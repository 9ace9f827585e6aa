// Where x is adversarial (hit): it is kept if its perturbation is the smallest so far, and x goes back towards the
// clean image, x' = clean + β (x − clean). trace[t, r] = smallest norm.
// reduce.wgsl stands before. Constants: THREADS, NORM (0 L∞, 1 L1, 2 L2). Grid: one workgroup an image.
struct Params { rows: u32, size: u32, beta: f32 }
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read> clean: array<f32>;
@group(0) @binding(2) var<storage, read> hit: array<f32>;
@group(0) @binding(3) var<storage, read> counter: array<u32>;
@group(0) @binding(4) var<storage, read_write> found: array<f32>;
@group(0) @binding(5) var<storage, read_write> norms: array<f32>;
@group(0) @binding(6) var<storage, read_write> trace: array<f32>;
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
    let d = abs(x[i] - clean[i]);
    if (NORM == 0) { s = max(s, vec2<f32>(d)); } else { s += select(d * d, d, NORM == 1); }
  }
  var length = 0.0;
  if (NORM == 0) { length = largest2(s, lane).x; } else { length = total2(s, lane).x; }
  if (NORM == 2) { length = sqrt(length); }
  let before = norms[row];
  let adversarial = hit[row] > 0.0;
  let smaller = adversarial && length < before;
  storageBarrier(); // all lanes have read the norm before
  for (var i = first + lane; i < end; i += u32(THREADS)) {
    let here = x[i];
    if (smaller) { found[i] = here; }
    if (adversarial) { x[i] = clean[i] + (here - clean[i]) * params.beta; }
  }
  if (lane == 0u) {
    let smallest = select(before, length, smaller);
    norms[row] = smallest;
    trace[counter[0] * params.rows + row] = smallest;
  }
}
