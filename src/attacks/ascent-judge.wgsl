// What an evaluation changes in an image's state, and what `keep` and `move` shall do. At iteration t = counter:
// the loss and hit are noted; a hit as good as any before is to be kept, a loss above all before too; and where a
// window ends, the step is halved if the loss rose in at most rho·window of its iterations, or if neither best loss
// nor step changed in it. As in the published code, the first iteration is compared with a loss of 0.
// Grid: one invocation an image.
struct Params { rows: u32, step: f32, rho: f32 }
struct State {
  best_loss: f32,
  best_hit: f32,      // hit at the best loss
  any_hit: f32,       // largest hit so far
  previous: f32,      // loss before
  rises: f32,         // of the loss since the last checkpoint
  step: f32,
  reduced: f32,       // 1 if the last checkpoint halved the step
  checked_loss: f32,  // best loss at the last checkpoint
  flags: f32,         // 1: new best, 2: hit to keep, 4: back to the best
}
@group(0) @binding(0) var<storage, read> loss: array<f32>;
@group(0) @binding(1) var<storage, read> hit: array<f32>;
@group(0) @binding(2) var<storage, read> windows: array<u32>;
@group(0) @binding(3) var<storage, read> counter: array<u32>;
@group(0) @binding(4) var<storage, read_write> state: array<State>;
@group(0) @binding(5) var<storage, read_write> trace: array<vec2<f32>>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(16)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let r = id.x + id.y * groups.x * 16u;
  if (r >= params.rows) { return; }
  let t = counter[0];
  let value = loss[r];
  let h = hit[r];
  trace[t * params.rows + r] = vec2<f32>(value, h);
  var s = state[r];
  var flags = 0u;
  if (t == 0u) {
    s = State(value, h, 0.0, 0.0, 0.0, params.step, 1.0, value, 0.0);
    flags = 1u;
  } else {
    if (value > s.best_loss) {
      s.best_loss = value;
      s.best_hit = h;
      flags = 1u;
    }
    s.rises += select(0.0, 1.0, value > s.previous);
    s.previous = value;
  }
  if (h > 0.0 && h >= s.any_hit) {
    s.any_hit = h;
    flags |= 2u;
  }
  let window = f32(windows[t]);
  if (window > 0.0) {
    let oscillates = s.rises <= window * params.rho;
    let stuck = s.reduced == 0.0 && s.checked_loss >= s.best_loss;
    s.reduced = select(0.0, 1.0, oscillates || stuck);
    s.checked_loss = s.best_loss;
    s.rises = 0.0;
    if (oscillates || stuck) {
      s.step = s.step / 2.0;
      flags |= 4u;
    }
  }
  s.flags = f32(flags);
  state[r] = s;
}
