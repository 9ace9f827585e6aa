// One FAB step. The linearised boundary at x is {u: w·(u − x) + gap = 0}, w = normal. d1 and d2 are the shortest
// moves (L∞ for LINF, else L2) of x and of the clean image onto it that stay in [0, 1]; with the bias
// α = min(‖d1‖ / (‖d1‖ + ‖d2‖), α_max):   x' = clamp((1 − α)(x + η d1) + α (clean + η d2), 0, 1).
//
// A shortest move has the form d_i = −s·sign(w_i)·min(λ m_i, room_i), s the side, m_i = 1 (L∞) or |w_i| (L2), and room_i
// the way to the face of the box. What it gains, Σ |w_i| min(λ m_i, room_i), is concave and piecewise linear in λ, so
// Newton's method from λ = 0 climbs to the root without passing it and ends after a few pieces. If even all the room
// is too little, all of it is taken. reduce.wgsl stands before. Constants: THREADS, LINF. Grid: one workgroup an image.
struct Params { rows: u32, size: u32, alpha_max: f32, eta: f32 }
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read> clean: array<f32>;
@group(0) @binding(2) var<storage, read> normal: array<f32>;
@group(0) @binding(3) var<storage, read> gap: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

const UNBOUNDED = 1e30;
const SMALLEST = select(1e-8, 0.0, LINF);

fn point(i: u32, from_clean: bool) -> f32 { return select(x[i], clean[i], from_clean); }

// Way from t in the direction −side·sign(w).
fn room(t: f32, w: f32, side: f32) -> f32 { return select(1.0 - t, t, w * side > 0.0); }

fn move_of(t: f32, w: f32, side: f32, lambda: f32) -> f32 {
  let m = abs(w);
  let far = min(lambda * select(m, 1.0, LINF), room(t, w, side));
  return select(-sign(w) * side * far, 0.0, m <= SMALLEST);
}

// λ of the move that gains `need`.
fn solve(first: u32, lane: u32, from_clean: bool, need: f32, side: f32) -> f32 {
  let end = first + params.size;
  var lambda = 0.0;
  for (var round = 0u; round < 100u; round++) {
    var s = vec2<f32>(0.0); // slope of the coordinates with room left, gain of those without
    for (var i = first + lane; i < end; i += u32(THREADS)) {
      let w = normal[i];
      let m = abs(w);
      if (m > SMALLEST) {
        let unit = select(m, 1.0, LINF);
        let left = room(point(i, from_clean), w, side);
        if (left > lambda * unit) { s.x += m * unit; } else { s.y += m * left; }
      }
    }
    let sums = total2(s, lane);
    if (sums.x <= 0.0) { return UNBOUNDED; }
    let next = (need - sums.y) / sums.x;
    if (!(next > lambda)) { return lambda; }
    lambda = next;
  }
  return lambda;
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
    if (LINF) { lengths = max(lengths, d); } else { lengths += d * d; }
  }
  if (LINF) { lengths = largest2(lengths, lane); } else { lengths = sqrt(total2(lengths, lane)); }
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
