// Put before the other ssim-*.wgsl: the 11 taps of the Gaussian window (sigma 1.5), W0 the middle one. Taps outside the image
// count as zeros ('same' padding 5), so a window at the border has a weight below 1; `missing` is 1 minus that weight, exactly 0
// inside, which a sum of rounded weights would not be.
const window = array<f32, 11>(W5, W4, W3, W2, W1, W0, W1, W2, W3, W4, W5);

struct Tap { at: u32, weight: f32 }

// Tap t of the window at `center` on an axis of `size`; a tap outside has weight 0 and a harmless place.
fn tap_at(t: u32, center: u32, size: u32) -> Tap {
  let at = i32(center) + i32(t) - 5;
  let inside = at >= 0 && at < i32(size);
  return Tap(u32(clamp(at, 0, i32(size) - 1)), select(0.0, window[t], inside));
}

fn missing(center: u32, size: u32) -> f32 {
  if (center >= 5u && center + 5u < size) { return 0.0; }
  var sum = 0.0;
  for (var t = 0u; t < 11u; t++) {
    let at = i32(center) + i32(t) - 5;
    sum += select(window[t], 0.0, at >= 0 && at < i32(size));
  }
  return sum;
}
