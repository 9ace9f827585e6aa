// A proposal of query q = counter from δ = best − clean. Two windows W1, W2 of side s = plans[q].x lie at random places.
// For each channel c, with ‖·‖ over a window: in W1 the new perturbation is
//   u = ±bump + δ/‖δ_c‖_W1,  u·sqrt(max(eps² − ‖δ‖², 0)/channels + ‖δ_c‖²_{W1∪W2}) / ‖u_c‖,
// what was in W2 alone is given up for it, and the whole is scaled to eps: x = clamp(clean + eps·δ'/‖δ'‖, 0, 1).
// In L1 ‖·‖ is that norm, the new perturbation u·(max(eps − ‖δ‖, 0) + channels·‖δ_c‖_{W1∪W2}) / ‖u_c‖, and the whole is
// projected (l1-projection.wgsl). philox.wgsl, reduce.wgsl and l1-projection.wgsl stand before.
// Constants: THREADS, CHANNELS, L1.
// Grid: one workgroup an image [height, width, channels].
struct Params {
  rows: u32, size: u32, height: u32, width: u32, channels: u32, purpose: u32, seed_low: u32, seed_high: u32,
  eps: f32, radius: f32, queries: u32,
}
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read> best: array<f32>;
@group(0) @binding(2) var<storage, read> clean: array<f32>;
@group(0) @binding(3) var<storage, read> ids: array<u32>;
@group(0) @binding(4) var<storage, read> plans: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read> bumps: array<f32>;
@group(0) @binding(6) var<storage, read> counter: array<u32>;
@group(0) @binding(7) var<storage, read> run: array<u32>;
@group(0) @binding(8) var<uniform> params: Params;

struct Windows { side: u32, bump: u32, first: vec2<u32>, second: vec2<u32>, signs: u32, turned: bool }

// Σ of it is the norm to the power of 2 (or 1).
fn part(d: f32) -> f32 { return select(d * d, abs(d), L1); }

fn norm(sum: f32) -> f32 { return select(sqrt(sum), sum, L1); }

// δ' lies in x.
fn raw(i: u32) -> f32 { return x[i]; }

fn place(word: u32, room: u32) -> u32 { return u32(uniform_of(word) * f32(room)); }

fn inside(at: vec2<u32>, corner: vec2<u32>, side: u32) -> bool {
  return all(at >= corner) && all(at < corner + vec2<u32>(side));
}

fn at_of(k: u32) -> vec2<u32> {
  return vec2<u32>(k / (params.channels * params.width), k / params.channels % params.width);
}

// ± bump at a place of W1.
fn bump(at: vec2<u32>, channel: u32, w: Windows) -> f32 {
  let p = at - w.first;
  let value = bumps[w.bump + select(p.x * w.side + p.y, p.y * w.side + p.x, w.turned)];
  return select(-value, value, ((w.signs >> channel) & 1u) == 1u);
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = group.x + group.y * groups.x;
  if (row >= params.rows) { return; }
  let base = row * params.size;
  let q = counter[0];
  let key = vec2<u32>(params.seed_low, params.seed_high);
  let draw = run[0] * (params.queries + 1u) + q;
  let places = philox4x32(vec4<u32>(0u, ids[row], params.purpose, draw), key);
  let words = philox4x32(vec4<u32>(1u, ids[row], params.purpose, draw), key);
  let side = plans[q].x;
  let room = vec2<u32>(params.height - side, params.width - side);
  let w = Windows(
    side,
    plans[q].y,
    vec2<u32>(place(places.x, room.x), place(places.y, room.y)),
    vec2<u32>(place(places.z, room.x), place(places.w, room.y)),
    words.x,
    (words.y & 1u) == 1u,
  );

  var sum = 0.0;
  for (var k = lane; k < params.size; k += u32(THREADS)) {
    let d = best[base + k] - clean[base + k];
    sum += part(d);
  }
  let spare = max(part(params.eps) - total(sum, lane), 0.0) / f32(CHANNELS);

  var own: array<f32, CHANNELS>;   // 1/‖δ_c‖ in W1
  var scale: array<f32, CHANNELS>; // of u
  for (var c = 0u; c < u32(CHANNELS); c++) {
    var s = vec2<f32>(0.0);
    for (var k = c + lane * params.channels; k < params.size; k += u32(THREADS) * params.channels) {
      let at = at_of(k);
      let d = best[base + k] - clean[base + k];
      let in_first = inside(at, w.first, side);
      if (in_first) { s.x += part(d); }
      if (in_first || inside(at, w.second, side)) { s.y += part(d); }
    }
    let norms = total2(s, lane);
    own[c] = 1.0 / (1e-12 + norm(norms.x));
    var t = 0.0;
    for (var k = c + lane * params.channels; k < params.size; k += u32(THREADS) * params.channels) {
      let at = at_of(k);
      if (inside(at, w.first, side)) {
        let u = bump(at, c, w) + (best[base + k] - clean[base + k]) * own[c];
        t += part(u);
      }
    }
    let wanted = norm(spare + norms.y) * select(1.0, f32(CHANNELS), L1);
    scale[c] = wanted / (1e-12 + norm(total(t, lane)));
  }

  // δ' into x, then scaled.
  sum = 0.0;
  for (var k = lane; k < params.size; k += u32(THREADS)) {
    let at = at_of(k);
    let c = k % params.channels;
    var d = best[base + k] - clean[base + k];
    if (inside(at, w.first, side)) {
      d = (bump(at, c, w) + d * own[c]) * scale[c];
    } else if (inside(at, w.second, side)) {
      d = 0.0;
    }
    sum += part(d);
    x[base + k] = d;
  }
  if (L1) {
    storageBarrier();
    l1_project(base, base + params.size, lane, params.radius);
    return;
  }
  let whole = params.eps / (sqrt(total(sum, lane)) + 1e-12);
  for (var k = lane; k < params.size; k += u32(THREADS)) {
    x[base + k] = clamp(clean[base + k] + x[base + k] * whole, 0.0, 1.0);
  }
}
