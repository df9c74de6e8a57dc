package android.app;

import android.content.Context;
import android.graphics.drawable.Icon;

public class Notification {
    public static class Action {
        public static final class Builder {
            public Builder(Icon icon, CharSequence title, PendingIntent intent) {}

            public Action build() {
                throw new UnsupportedOperationException();
            }
        }
    }

    public static class Builder {
        public Builder(Context context, String channelId) {}

        public Builder setSmallIcon(int icon) {
            throw new UnsupportedOperationException();
        }

        public Builder setContentTitle(CharSequence title) {
            throw new UnsupportedOperationException();
        }

        public Builder setContentText(CharSequence text) {
            throw new UnsupportedOperationException();
        }

        public Builder setContentIntent(PendingIntent intent) {
            throw new UnsupportedOperationException();
        }

        public Builder setOngoing(boolean ongoing) {
            throw new UnsupportedOperationException();
        }

        public Builder setOnlyAlertOnce(boolean onlyAlertOnce) {
            throw new UnsupportedOperationException();
        }

        public Builder addAction(Action action) {
            throw new UnsupportedOperationException();
        }

        public Notification build() {
            throw new UnsupportedOperationException();
        }
    }
}
