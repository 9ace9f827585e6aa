// state[r] = (margin of the best point, whether the proposal at hand takes its place). The margin is
// z_y − max_{j≠y} z_j; the first point is always taken, later ones where it falls, and with ENDS only while it is positive.
// Grid: one invocation an image.
struct Params { rows: u32, classes: u32 }
@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read> counter: array<u32>;
@group(0) @binding(3) var<storage, read_write> state: array<vec2<f32>>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(16)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let r = id.x + id.y * groups.x * 16u;
  if (r >= params.rows) { return; }
  let at = r * params.classes;
  var others = -3.0e38;
  for (var c = 0u; c < params.classes; c++) {
    if (c != labels[r]) { others = max(others, logits[at + c]); }
  }
  let margin = logits[at + labels[r]] - others;
  let before = state[r].x;
  let taken = counter[0] == 0u || (margin < before && (!ENDS || before > 0.0));
  state[r] = vec2<f32>(select(before, margin, taken), select(0.0, 1.0, taken));
}
