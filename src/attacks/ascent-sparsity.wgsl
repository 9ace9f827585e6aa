// APGD's rule for L1 (Croce & Hein 2021, Sec. 3.2), after ascent-keep. sparsity[r] = (share of the pixels that a step
// moves, count of those moved by the best point at the last checkpoint). At iteration t = counter:
//   t = 0              share and count of the start, or 0.2 and all where FRESH
//   windows[t] > 0     count of the best point; has it fallen below 0.95 of the last, step = eps and x goes back to the
//                      best, else step = max(step/1.5, eps/10)
// with share = count / size / 1.5. reduce.wgsl stands before. Constants: THREADS, FRESH. Grid: one workgroup an image.
const FIELDS = 9u;
const STEP = 5u;
const FLAGS = 8u;
struct Params { rows: u32, size: u32, eps: f32 }
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read> best: array<f32>;
@group(0) @binding(2) var<storage, read> clean: array<f32>;
@group(0) @binding(3) var<storage, read> windows: array<u32>;
@group(0) @binding(4) var<storage, read> counter: array<u32>;
@group(0) @binding(5) var<storage, read_write> state: array<f32>;
@group(0) @binding(6) var<storage, read_write> sparsity: array<vec2<f32>>;
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
  var moved = 0.0;
  for (var i = first + lane; i < end; i += u32(THREADS)) {
    moved += select(0.0, 1.0, best[i] != clean[i]);
  }
  let count = total(moved, lane);
  let n = f32(params.size);
  let before = sparsity[row];
  let at = row * FIELDS;
  let step = state[at + STEP];
  let beginning = counter[0] == 0u;
  let checkpoint = !beginning && windows[counter[0]] > 0u;
  let sparser = checkpoint && count < 0.95 * before.y;
  storageBarrier(); // all lanes have read the state
  if (sparser) {
    for (var i = first + lane; i < end; i += u32(THREADS)) { x[i] = best[i]; }
  }
  if (lane == 0u) {
    if (beginning) {
      sparsity[row] = select(vec2<f32>(count / n / 1.5, count), vec2<f32>(0.2, n), FRESH);
    } else if (checkpoint) {
      sparsity[row] = vec2<f32>(count / n / 1.5, count);
      state[at + STEP] = select(max(step / 1.5, params.eps / 10.0), params.eps, sparser);
      if (sparser) { state[at + FLAGS] = f32(u32(state[at + FLAGS]) | 4u); }
    }
  }
}
