package android.os;

import java.util.Set;

public final class Bundle {
    public Set<String> keySet() {
        throw new UnsupportedOperationException();
    }

    public Object get(String key) {
        throw new UnsupportedOperationException();
    }
}
