// One FAB step. The linearised boundary at x is {u: w·(u − x) + gap = 0}, w = normal. d1 and d2 are the shortest
// moves (in the norm) of x and of the clean image onto it that stay in [0, 1]; with the bias
// α = min(‖d1‖ / (‖d1‖ + ‖d2‖), α_max):   x' = clamp((1 − α)(x + η d1) + α (clean + η d2), 0, 1).
//
// A shortest move has the form d_i = −s·sign(w_i)·min(λ m_i, room_i), s the side, m_i = 1 (L∞) or |w_i| (L2), and room_i
// the way to the face of the box. What it gains, Σ |w_i| min(λ m_i, room_i), is concave and piecewise linear in λ, so
// Newton's method from λ = 0 climbs to the root without passing it and ends after a few pieces. If even all the room
// is too little, all of it is taken.
//
// In L1 it takes all the room of the pixels of largest |w|, as many as needed, and a part of the last: those of |w| above λ,
// and of those of |w| = λ (which is found bit by bit, as in ascent-move-l1.wgsl) the same share of each.
// reduce.wgsl stands before. Constants: THREADS, NORM (0 L∞, 1 L1, 2 L2). Grid: one workgroup an image.
struct Params { rows: u32, size: u32, alpha_max: f32, eta: f32 }
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read> clean: array<f32>;
@group(0) @binding(2) var<storage, read> normal: array<f32>;
@group(0) @binding(3) var<storage, read> gap: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

const UNBOUNDED = 1e30;
const SMALLEST = select(1e-8, 0.0, NORM == 0);

fn point(i: u32, from_clean: bool) -> f32 { return select(x[i], clean[i], from_clean); }

// Way from t in the direction −side·sign(w).
fn room(t: f32, w: f32, side: f32) -> f32 { return select(1.0 - t, t, w * side > 0.0); }

// λ and, for L1, the share of those at λ.
fn move_of(t: f32, w: f32, side: f32, lambda: vec2<f32>) -> f32 {
  let m = abs(w);
  let left = room(t, w, side);
  var far = 0.0;
  if (NORM == 1) {
    far = left * select(select(0.0, lambda.y, m == lambda.x), 1.0, m > lambda.x);
  } else {
    far = min(lambda.x * select(m, 1.0, NORM == 0), left);
  }
  return select(-sign(w) * side * far, 0.0, m <= SMALLEST);
}

// What the pixels of |w| not below the bits gain; and those above.
fn gain_l1(first: u32, lane: u32, from_clean: bool, side: f32, bits: u32) -> vec2<f32> {
  let end = first + params.size;
  var s = vec2<f32>(0.0);
  for (var i = first + lane; i < end; i += u32(THREADS)) {
    let w = normal[i];
    let m = abs(w);
    if (m > SMALLEST) {
      let gain = m * room(point(i, from_clean), w, side);
      let b = bitcast<u32>(m);
      s += vec2<f32>(select(0.0, gain, b >= bits), select(0.0, gain, b > bits));
    }
  }
  return total2(s, lane);
}

// The largest λ at which there is enough.
fn solve_l1(first: u32, lane: u32, from_clean: bool, need: f32, side: f32) -> vec2<f32> {
  if (!(need > 0.0)) { return vec2<f32>(UNBOUNDED, 0.0); }
  var bits = 0u;
  for (var bit = 0u; bit < 31u; bit++) {
    let higher = bits | (1u << (30u - bit));
    if (gain_l1(first, lane, from_clean, side, higher).x >= need) { bits = higher; }
  }
  let gains = gain_l1(first, lane, from_clean, side, bits);
  let here = gains.x - gains.y;
  let share = select(1.0, clamp((need - gains.y) / here, 0.0, 1.0), here > 0.0);
  return vec2<f32>(bitcast<f32>(bits), share);
}

// λ of the move that gains `need`.
fn solve(first: u32, lane: u32, from_clean: bool, need: f32, side: f32) -> vec2<f32> {
  if (NORM == 1) { return solve_l1(first, lane, from_clean, need, side); }
  let end = first + params.size;
  var lambda = 0.0;
  for (var round = 0u; round < 100u; round++) {
    var s = vec2<f32>(0.0); // slope of the coordinates with room left, gain of those without
    for (var i = first + lane; i < end; i += u32(THREADS)) {
      let w = normal[i];
      let m = abs(w);
      if (m > SMALLEST) {
        let unit = select(m, 1.0, NORM == 0);
        let left = room(point(i, from_clean), w, side);
        if (left > lambda * unit) { s.x += m * unit; } else { s.y += m * left; }
      }
    }
    let sums = total2(s, lane);
    if (sums.x <= 0.0) { return vec2<f32>(UNBOUNDED, 0.0); }
    let next = (need - sums.y) / sums.x;
    if (!(next > lambda)) { return vec2<f32>(lambda, 0.0); }
    lambda = next;
  }
  return vec2<f32>(lambda, 0.0);
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
  let end = first + params.size;
  let at_x = gap[row];
  var s = 0.0;
  for (var i = first + lane; i < end; i += u32(THREADS)) { s += normal[i] * (clean[i] - x[i]); }
  let at_clean = at_x + total(s, lane);
  let side1 = select(-1.0, 1.0, at_x >= 0.0);
  let side2 = select(-1.0, 1.0, at_clean >= 0.0);
  let lambda1 = solve(first, lane, false, abs(at_x), side1);
  let lambda2 = solve(first, lane, true, abs(at_clean), side2);

  var lengths = vec2<f32>(0.0);
  for (var i = first + lane; i < end; i += u32(THREADS)) {
    let d = abs(vec2<f32>(
      move_of(x[i], normal[i], side1, lambda1),
      move_of(clean[i], normal[i], side2, lambda2),
    ));
    if (NORM == 0) { lengths = max(lengths, d); } else { lengths += select(d * d, d, NORM == 1); }
  }
  if (NORM == 0) { lengths = largest2(lengths, lane); } else { lengths = total2(lengths, lane); }
  if (NORM == 2) { lengths = sqrt(lengths); }
  lengths = max(lengths, vec2<f32>(1e-8));
  let alpha = min(lengths.x / (lengths.x + lengths.y), params.alpha_max);

  for (var i = first + lane; i < end; i += u32(THREADS)) {
    let t = x[i];
    let c = clean[i];
    let w = normal[i];
    let a = t + params.eta * move_of(t, w, side1, lambda1);
    let b = c + params.eta * move_of(c, w, side2, lambda2);
    x[i] = clamp(a * (1.0 - alpha) + b * alpha, 0.0, 1.0);
  }
}
