// Work shared out among threads. What each piece computes does not depend on who computes it.

import CSupport

/// The most threads a call may use.
func threadLimit() -> Int {
    var limit = support_load(support_threads())
    if limit == 0 {
        limit = threadsAtLoad()
        support_store(support_threads(), limit)
    }
    return Int(limit)
}

func setThreadLimit(_ count: Int32) {
    support_store(support_threads(), count < 1 ? threadsAtLoad() : count)
}

private func threadsAtLoad() -> Int32 {
    let name: StaticString = "SWIFTMAX_NUM_THREADS"
    let wanted: Int32 = if let value = getenv(cString(name)) { atoi(value) } else { 0 }
    return wanted > 0 ? wanted : support_processors()
}

/// Scratch memory and a floating-point environment of its own, for as long as `body` runs. False without memory.
@inline(__always)
func withScratch(_ body: (UnsafeMutableRawPointer) -> Void) -> Bool {
    guard let scratch = support_scratch(Work.scratchBytes) else { return false }
    let saved = support_enter_float_environment()
    body(scratch)
    support_leave_float_environment(saved)
    return true
}

/// What the threads of one call share.
private struct Shared {
    let path: Path
    let work: UnsafePointer<Work>
    let units: Int
    /// Units taken at a time.
    let grain: Int
    var next: Int64 = 0

    /// With the scratch of the thread that takes them. One without memory leaves its share to the others.
    static func takePieces(_ shared: UnsafeMutableRawPointer?) {
        let shared = shared.unsafelyUnwrapped.assumingMemoryBound(to: Shared.self)
        _ = withScratch { takePieces(shared, $0) }
    }

    static func takePieces(_ shared: UnsafeMutablePointer<Shared>, _ scratch: UnsafeMutableRawPointer) {
        let (units, grain) = (shared.pointee.units, shared.pointee.grain)
        while true {
            let first = Int(support_fetch_add(&shared.pointee.next, Int64(grain)))
            if first >= units { return }
            shared.pointee.path.run(shared.pointee.work, first, min(first &+ grain, units), scratch)
        }
    }
}

/// Runs a path over 0..<units in pieces, on as many threads as the work is worth; `scratch` is the calling thread's.
func share(
    _ path: Path, _ work: UnsafePointer<Work>, _ units: Int, elements: Int,
    _ scratch: UnsafeMutableRawPointer
) {
    let threads = min(units, threadsWorth(elements))
    if threads <= 1 {
        path.run(work, 0, units, scratch)
        return
    }
    // Several pieces for each thread, so that one that starts late or is interrupted holds up no other.
    let grain = max(1, units / (threads &* 8))
    var shared = Shared(path: path, work: work, units: units, grain: grain)
    withUnsafeMutablePointer(to: &shared) { shared in
        let crew = support_crew_of_process().unsafelyUnwrapped
        if support_exchange(&crew.pointee.is_taken, 1) == 0 {
            crew.share(shared, threads &- 1, scratch)
            support_store(&crew.pointee.is_taken, 0)
            return
        }
        // The crew helps another thread's call. With so much to do nobody is to wait.
        support_store(&crew.pointee.is_crowded, 1)
        support_apply(threads, shared) { shared, _ in Shared.takePieces(shared) }
        Shared.takePieces(shared, scratch)
    }
}

// MARK: The crew

extension UnsafeMutablePointer<support_crew> {
    /// Takes all pieces, with up to so many helpers.
    fileprivate func share(
        _ shared: UnsafeMutablePointer<Shared>, _ helpers: Int, _ scratch: UnsafeMutableRawPointer
    ) {
        let helpers = Int32(helpers)
        pointee.shared = UnsafeMutableRawPointer(shared)
        support_store(&pointee.done, 0)
        support_store(&pointee.is_crowded, 0)
        let missing =
            min(helpers, max(1, pointee.most)) &- support_load(&pointee.waiting)
            &- support_load(&pointee.coming)
        support_store(&pointee.seats, helpers)
        for _ in 0..<max(0, missing) {
            support_add(&pointee.coming, 1)
            support_async { _ in support_crew_of_process().unsafelyUnwrapped.help() }
        }
        Shared.takePieces(shared, scratch)
        // Nobody joins any more; those who did must not be left with memory that is gone.
        let joined = helpers &- support_exchange(&pointee.seats, 0)
        var looks = 0
        while support_load(&pointee.done) < joined {
            looks &+= 1
            if looks < 1000 { support_pause() } else { support_yield() }
        }
    }

    /// What a helper does: its part of every call that comes soon enough.
    private func help() {
        support_add(&pointee.waiting, 1)
        support_add(&pointee.coming, -1)
        var end = support_now() &+ patience
        while support_now() < end && support_exchange(&pointee.is_crowded, 0) == 0 {
            for _ in 0..<16 {
                if support_take(&pointee.seats) {
                    support_add(&pointee.waiting, -1)
                    Shared.takePieces(pointee.shared)
                    support_add(&pointee.done, 1)
                    support_add(&pointee.waiting, 1)
                    end = support_now() &+ patience
                }
                support_pause()
            }
        }
        support_add(&pointee.waiting, -1)
    }
}

/// Nanoseconds that a helper waits for the next call.
private var patience: Int64 { 200_000 }

/// How many threads so many elements are worth.
func threadsWorth(_ elements: Int) -> Int { min(threadLimit(), elements / elementsPerThread) }

/// Below this many elements for each, a further thread costs more than it gains.
private var elementsPerThread: Int { 32768 }
