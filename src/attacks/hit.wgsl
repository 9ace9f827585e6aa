// hit[r] = keep·hit[r] + weight·[(argmax logits[r] = aim[r]) = equal]; the first of equal logits wins. Where one is NaN nothing
// is hit.
// Grid: one invocation a row.
struct Params { rows: u32, classes: u32, equal: u32, keep: f32, weight: f32 }
@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> aim: array<u32>;
@group(0) @binding(2) var<storage, read_write> hit: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(16)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let r = id.x + id.y * groups.x * 16u;
  if (r >= params.rows) { return; }
  var best = 0u;
  var top = logits[r * params.classes];
  var numbers = true;
  for (var c = 0u; c < params.classes; c++) {
    let z = logits[r * params.classes + c];
    numbers &= (bitcast<u32>(z) & 0x7fffffffu) <= 0x7f800000u;
    if (z > top) {
      top = z;
      best = c;
    }
  }
  let met = numbers & ((best == aim[r]) == (params.equal == 1u));
  hit[r] = params.keep * hit[r] + select(0.0, params.weight, met);
}
