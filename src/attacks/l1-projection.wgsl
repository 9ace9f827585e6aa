// The perturbation nearest to a raw one δ (in L2) with ‖·‖₁ ≤ radius and clean + · in [0, 1] (Croce & Hein 2021, "Mind the
// box: l1-APGD for sparse adversarial attacks on image classifiers", Prop. 2.1):
//   sign(δ_i)·min(max(|δ_i| − λ, 0), room_i),  room_i the way from clean_i to the face of the box,
// λ = 0 where that is within the radius, else the root of Σ_i = radius. The sum falls piecewise linearly in λ: bisection
// finds the piece, its line the root. reduce.wgsl stands before; the kernel has
// `x`, `clean` and fn raw(i: u32) -> f32.
fn l1_part(i: u32, lambda: f32) -> f32 {
  let d = raw(i);
  return sign(d) * clamp(abs(d) - lambda, 0.0, select(clean[i], 1.0 - clean[i], d > 0.0));
}

// λ for the elements [first, end) of an image. Uniform; not to be called in divergent code.
fn l1_level(first: u32, end: u32, lane: u32, radius: f32) -> f32 {
  var within = 0.0;
  var most = 0.0;
  for (var i = first + lane; i < end; i += u32(THREADS)) {
    within += abs(l1_part(i, 0.0));
    most = max(most, abs(raw(i)));
  }
  if (total(within, lane) <= radius) { return 0.0; }
  var low = 0.0;
  var high = largest2(vec2<f32>(most, 0.0), lane).x;
  for (var round = 0u; round < 30u; round++) {
    let middle = 0.5 * (low + high);
    var sum = 0.0;
    for (var i = first + lane; i < end; i += u32(THREADS)) { sum += abs(l1_part(i, middle)); }
    if (total(sum, lane) > radius) { low = middle; } else { high = middle; }
  }
  // On this piece Σ = s.y − λ s.x: s.x elements are between 0 and their room.
  let middle = 0.5 * (low + high);
  var s = vec2<f32>(0.0);
  for (var i = first + lane; i < end; i += u32(THREADS)) {
    let d = raw(i);
    let room = select(clean[i], 1.0 - clean[i], d > 0.0);
    let over = abs(d) - middle;
    if (over >= room) { s.y += room; } else if (over > 0.0) { s += vec2<f32>(1.0, abs(d)); }
  }
  s = total2(s, lane);
  return select(high, max((s.y - radius) / max(s.x, 1.0), 0.0), s.x > 0.0);
}

// x = clean + the perturbation for the elements [first, end) of an image. Uniform control flow alone, as above.
fn l1_project(first: u32, end: u32, lane: u32, radius: f32) {
  let lambda = l1_level(first, end, lane, radius);
  for (var i = first + lane; i < end; i += u32(THREADS)) {
    x[i] = clamp(clean[i] + l1_part(i, lambda), 0.0, 1.0);
  }
}
