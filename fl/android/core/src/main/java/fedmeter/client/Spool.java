package fedmeter.client;

import fedmeter.measurement.MeasurementOuterClass.Measurement;
import fedmeter.measurement.MeasurementOuterClass.Span;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;

/**
 * Spans that wait to be sent, oldest first, each once. Bounded: the oldest go, and are counted.
 *
 * <p>Whether a reply arrived is known only once the next instruction comes on the same connection. Until then what it
 * carried is on its way, and {@link #giveBack} puts it first in line again where the connection broke instead.
 */
final class Spool {
    static final int MAX_WAITING = 10_000;
    static final int MAX_SENT = 128; // with one reply; the rest goes with the next

    private final Deque<Span> waiting = new ArrayDeque<>();
    private final List<Span> onTheWay = new ArrayList<>();
    private long lost;

    synchronized void add(Span span) {
        waiting.addLast(span);
        if (waiting.size() > MAX_WAITING) {
            waiting.removeFirst();
            lost++;
        }
    }

    /** What is to be sent now. What was taken before is taken to have arrived. */
    synchronized Measurement take() {
        onTheWay.clear();
        while (onTheWay.size() < MAX_SENT && !waiting.isEmpty()) {
            onTheWay.add(waiting.removeFirst());
        }
        return Measurement.newBuilder().addAllSpans(onTheWay).build();
    }

    /** What was taken last has arrived. */
    synchronized void confirm() {
        onTheWay.clear();
    }

    /** What was taken last may not have arrived. */
    synchronized void giveBack() {
        for (int i = onTheWay.size() - 1; i >= 0; i--) {
            waiting.addFirst(onTheWay.get(i));
        }
        onTheWay.clear();
    }

    synchronized long lost() {
        return lost;
    }
}
